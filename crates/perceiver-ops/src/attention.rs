//! Scaled dot-product attention as one operation: `softmax(scale * q k^T) v`, dropout on the probabilities included.
//!
//! The logits never exist as a whole. Keys are taken [`KEY_BLOCK`] at a time, and a running maximum and sum carry the
//! softmax from block to block (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; Dao et al.,
//! "`FlashAttention`", 2022). For backward, one block's probabilities are kept; those of longer inputs are computed again,
//! so that memory does not grow with the number of keys times queries.
//!
//! With `P` the probabilities, `D` the mask of dropout (0 or `1 / (1 - rate)`) and `y = (P * D) v`, backward is
//! `dv = (P * D)^T dy`, `dP = D * (dy v^T)`, `dS = P * (dP - rows(dy * y))`, `dq = scale * dS k`, `dk = scale * dS^T q`.

mod backward;
mod forward;
mod mask;
mod shape;

use std::sync::Mutex;

use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Storage, Tensor, bail};

use crate::{Mode, batched_matmul_composed, cpu, softmax_composed};
use mask::Mask;
use shape::Geometry;

/// Keys taken at a time. A block of logits of 256 queries, its keys and its values fit a core's cache together.
const KEY_BLOCK: usize = 256;

/// How [`attention`] reads.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Heads of the queries. Keys and values have as many, or one that all heads share (Shazeer, "Fast transformer
    /// decoding", 2019).
    pub heads: usize,
    /// Factor on the logits.
    pub scale: f64,
    /// Dropout rate of the probabilities, in `[0, 1)`.
    pub dropout: f64,
    /// Whether dropout acts, and with which key.
    pub mode: Mode,
    /// Appends, for every query, each head's sum of probabilities after dropout: what a bias on the values is worth.
    pub append_sums: bool,
}

/// What `queries` `[batch, n, heads * width]` read from `values` `[batch, m, kv_heads * value_width]` by their likeness
/// to `keys` `[batch, m, kv_heads * width]`: `[batch, n, heads * value_width]`, or with
/// [`append_sums`](Attention::append_sums) `[batch, n, heads * value_width + heads]`. `kv_heads` is `heads` or 1.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use perceiver_ops::{Attention, Mode, attention};
///
/// let queries = Tensor::new(&[[[100f32, 0.0]]], &Device::Cpu)?; // one query, of width 2
/// let keys = Tensor::new(&[[[1f32, 0.0], [0.0, 1.0]]], &Device::Cpu)?;
/// let values = Tensor::new(&[[[7f32], [3.0]]], &Device::Cpu)?;
/// let how = Attention { heads: 1, scale: 1.0, dropout: 0.0, mode: Mode::Inference, append_sums: false };
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
    let geometry = Geometry::new(queries.dims(), keys.dims(), values.dims(), how)?;
    if ![queries, keys, values].into_iter().all(cpu::has_kernels) {
        return composed(queries, keys, values, geometry, how);
    }
    let op = FusedAttention {
        geometry,
        mask: Mask::new(how.dropout, how.mode)?,
        keep: [queries, keys, values].iter().any(|x| x.track_op()),
        kept: Mutex::new(Vec::new()),
    };
    queries
        .contiguous()?
        .apply_op3(&keys.contiguous()?, &values.contiguous()?, op)
}

/// [`attention`] as a composition of candle's own operations: what every device runs that has no kernel, and what the
/// kernel is tested against. The mask of dropout is the same.
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
    composed(queries, keys, values, geometry, how)
}

fn composed(
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    g: Geometry,
    how: Attention,
) -> Result<Tensor> {
    let split = |x: &Tensor, length: usize, width: usize| {
        let heads = x.dim(D::Minus1)? / width;
        x.reshape((g.batch, length, heads, width))?
            .transpose(1, 2)?
            .broadcast_as((g.batch, g.heads, length, width))?
            .contiguous()
    };
    let queries = (split(queries, g.queries, g.width)? * how.scale)?;
    let keys = split(keys, g.keys, g.width)?;
    let values = split(values, g.keys, g.value_width)?;
    let logits = queries.matmul(&keys.t()?.contiguous()?)?; // [batch, heads, n, m]
    let mut probabilities = softmax_composed(&logits)?;
    if let Some(mask) = Mask::new(how.dropout, how.mode)? {
        let factors = Tensor::from_vec(mask.factors(g), logits.shape(), logits.device())?;
        probabilities = (probabilities * factors.to_dtype(logits.dtype())?)?;
    }
    let join = |x: &Tensor| {
        let width = g.heads * x.dim(D::Minus1)?;
        x.transpose(1, 2)?
            .contiguous()?
            .reshape((g.batch, g.queries, width))
    };
    let read = join(&batched_matmul_composed(&probabilities, &values)?)?;
    if !how.append_sums {
        return Ok(read);
    }
    let sums = join(&probabilities.sum_keepdim(D::Minus1)?)?;
    Tensor::cat(&[&read, &sums], 2)
}

struct FusedAttention {
    geometry: Geometry,
    mask: Option<Mask>,
    /// Whether backward may come.
    keep: bool,
    /// What the forward pass leaves for backward, by image.
    kept: Mutex<Vec<Kept>>,
}

/// What backward needs of an image's softmax.
enum Kept {
    /// `[heads, queries, keys]`, where all keys are one block. A set sign bit marks what dropout took.
    Probabilities(Vec<f32>),
    /// `[heads, queries]`: the logarithm of the sum of the exponentials, from which probabilities are computed again.
    LogSums(Vec<f32>),
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
        *self
            .kept
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = kept;
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
        let tensors = [queries, keys, values, output, &grad.contiguous()?].map(Tensor::clone);
        let guards: Vec<_> = tensors.iter().map(Tensor::storage_and_layout).collect();
        let mut slices = Vec::with_capacity(guards.len());
        for (storage, layout) in &guards {
            let Storage::Cpu(storage) = &**storage else {
                bail!("{}: expected tensors on the CPU", self.name());
            };
            slices.push(cpu::values(self.name(), storage, layout)?);
        }
        let inputs = backward::Inputs {
            queries: slices[0],
            keys: slices[1],
            values: slices[2],
            output: slices[3],
            grad: slices[4],
        };
        let kept = self
            .kept
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let [dq, dk, dv] = backward::run(self.geometry, self.mask, &kept, inputs);
        let tensor = |values: Vec<f32>, like: &Tensor| {
            Tensor::from_vec(values, like.shape(), like.device()).map(Some)
        };
        Ok((tensor(dq, queries)?, tensor(dk, keys)?, tensor(dv, values)?))
    }
}
