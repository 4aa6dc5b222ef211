//! Fused scaled dot-product attention, `softmax(scale * q k^T) v`, with dropout on the attention
//! weights.
//!
//! The logits never exist as a whole. Keys are processed in blocks of [`KEY_BLOCK`], and a running
//! maximum and sum carry the softmax from block to block (Milakov and Gimelshein, "Online
//! normalizer calculation for softmax", 2018; Dao et al., "`FlashAttention`", 2022). Probabilities
//! are saved for the backward pass only if all keys fit one block, and otherwise recomputed, so
//! memory does not grow with the number of keys times queries.
//!
//! With `P` the probabilities, `D` the dropout mask (0 or `1 / (1 - rate)`) and `y = (P * D) v`,
//! the backward pass is `dv = (P * D)^T dy`, `dP = D * (dy v^T)`, `dS = P * (dP - rows(dy * y))`,
//! `dq = scale * dS k`, `dk = scale * dS^T q`.

pub(crate) mod absorbed;
pub(crate) mod batched;
pub(crate) mod bias_columns;
pub(crate) mod dropout_mask;
pub(crate) mod gpu;

pub(crate) mod backward;
pub(crate) mod forward;
pub(crate) mod shape;
pub(crate) mod softmax_dropout;

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use crate::autograd::recorded_ops::apply_op3;
use crate::half_precision::{is_narrow_on_cpu, widened};
use crate::matmul::right::Products;
use crate::{Mode, cpu};
use dropout_mask::Mask;
use shape::Geometry;

/// Number of keys per block. The logits of 256 queries, the keys and the values of a block fit a
/// core's cache together.
const KEY_BLOCK: usize = 256;

/// Options of [`attention`].
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Number of query heads. Keys and values have as many, or one that all heads share (Shazeer,
    /// "Fast transformer decoding", 2019).
    pub heads: usize,
    /// Scale of the logits.
    pub scale: f64,
    /// Dropout rate of the attention weights, in `[0, 1)`.
    pub dropout: f64,
    /// Inference, or training with a dropout key.
    pub mode: Mode,
}

/// Computes attention of `queries` `[batch, n, heads * width]` to `keys`
/// `[batch, m, kv_heads * width]` and `values` `[batch, m, kv_heads * value_width]`:
/// `[batch, n, heads * value_width]`. `kv_heads` is `heads` or 1.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use perceiver_ops::{Attention, Mode, attention};
///
/// let queries = Tensor::new(&[[[100f32, 0.0]]], &Device::Cpu)?; // one query, of width 2
/// let keys = Tensor::new(&[[[1f32, 0.0], [0.0, 1.0]]], &Device::Cpu)?;
/// let values = Tensor::new(&[[[7f32], [3.0]]], &Device::Cpu)?;
/// let how = Attention { heads: 1, scale: 1.0, dropout: 0.0, mode: Mode::Inference };
/// assert_eq!(attention(&queries, &keys, &values, how)?.to_vec3::<f32>()?, [[[7.0]]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// When the shapes do not fit or the dropout rate is not in `[0, 1)`.
pub fn attention(
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    how: Attention,
) -> Result<Tensor> {
    if is_narrow_on_cpu(queries) {
        let products = Products::of(queries.dtype());
        return widened([queries, keys, values], |[queries, keys, values]| {
            attention_in(products, queries, keys, values, how)
        });
    }
    attention_in(Products::F32, queries, keys, values, how)
}

/// Computes [`attention`] with the given products on the CPU.
fn attention_in(
    products: Products,
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    how: Attention,
) -> Result<Tensor> {
    let geometry = Geometry {
        products,
        ..Geometry::new(queries.dims(), keys.dims(), values.dims(), how)?
    };
    if ![queries, keys, values].into_iter().all(cpu::has_kernels) {
        let mask = Mask::new(how.dropout, how.mode, geometry)?;
        return batched::read(queries, keys, values, geometry, mask);
    }
    let op = FusedAttention {
        geometry,
        mask: Mask::new(how.dropout, how.mode, geometry)?,
        keep: [queries, keys, values].iter().any(|x| x.track_op()),
        kept: Mutex::new(Vec::new()),
    };
    apply_op3(
        &queries.contiguous()?,
        &keys.contiguous()?,
        &values.contiguous()?,
        op,
    )
}

/// Computes [`attention`] by candle's operations: the fallback for devices without a kernel, and
/// the reference in tests. The dropout mask is the same.
///
/// # Errors
/// As for [`attention`].
pub fn attention_composed(
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    how: Attention,
) -> Result<Tensor> {
    let geometry = Geometry::new(queries.dims(), keys.dims(), values.dims(), how)?;
    let mask = Mask::new(how.dropout, how.mode, geometry)?;
    batched::read(queries, keys, values, geometry, mask)
}

struct FusedAttention {
    geometry: Geometry,
    mask: Option<Mask>,
    /// Whether a backward pass may follow.
    keep: bool,
    /// Values saved for the backward pass, per image: see [`Geometry::kept_width`].
    kept: Mutex<Vec<Vec<f32>>>,
}

impl CustomOp3 for FusedAttention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        queries: &CpuStorage,
        queries_layout: &Layout,
        keys: &CpuStorage,
        keys_layout: &Layout,
        values: &CpuStorage,
        values_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let queries = cpu::values(self.name(), queries, queries_layout)?;
        let keys = cpu::values(self.name(), keys, keys_layout)?;
        let values = cpu::values(self.name(), values, values_layout)?;
        let g = self.geometry;
        let (output, kept) = forward::run(g, self.mask, self.keep, queries, keys, values);
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        let shape = Shape::from((g.batch, g.queries, g.output_width()));
        Ok((CpuStorage::F32(output), shape))
    }

    fn bwd(
        &self,
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let tensors = [queries, keys, values, output, &grad.contiguous()?];
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let [dq, dk, dv] = cpu::with_values(
            self.name(),
            tensors,
            |[queries, keys, values, output, grad]| {
                let inputs = backward::Inputs {
                    queries,
                    keys,
                    values,
                    output,
                    grad,
                };
                backward::run(self.geometry, self.mask, &kept, inputs)
            },
        )?;
        let tensor = |values: Vec<f32>, like: &Tensor| {
            Tensor::from_vec(values, like.shape(), like.device()).map(Some)
        };
        Ok((tensor(dq, queries)?, tensor(dk, keys)?, tensor(dv, values)?))
    }
}
