//! Attention with absorbed projections: `softmax(scale * q t^T) t`, where `q` is a projection of
//! the query inputs, the tokens `t` are keys and values of every head, and an output projection
//! follows.
//!
//! Projections of keys and values are linear, so their products with those of queries and outputs
//! are computed in advance, once for all images. The rest costs less per image if heads are as wide
//! as the tokens.

mod backward;
mod bf16;
pub(crate) mod composed;
mod custom_op;
mod forward;
pub(crate) mod gpu;
mod pass;
mod shape;
mod weight_gradients;
pub(crate) mod weights;

use std::sync::Mutex;

use candle_core::{Result, Tensor};

use crate::attention::Attention;
use crate::attention::absorbed::bf16::AbsorbedBf16;
use crate::attention::absorbed::composed::absorbed_attention_composed;
use crate::attention::absorbed::pass::AbsorbedAttention;
use crate::attention::absorbed::shape::{geometry, rows_of};
use crate::attention::absorbed::weights::AbsorbedWeights;
use crate::attention::dropout_mask::Mask;
use crate::attention::shape::Geometry;
use crate::autograd::recorded_ops::apply_op3;
use crate::half_precision::{is_narrow_on_cpu, widened};
use crate::matmul::kernel::Bf16Kernel;
use crate::matmul::right::Products;
use crate::{Mode, add_dropout, cpu, cuda};

/// Computes absorbed attention of `x` `[batch, n, width]` to `tokens` `[batch, m, token_width]`:
/// `[batch, n, outputs]`.
///
/// # Errors
/// When the shapes do not fit or the dropout rate is not in `[0, 1)`.
pub fn absorbed_attention(
    x: &Tensor,
    tokens: &Tensor,
    weights: &AbsorbedWeights,
    how: Attention,
) -> Result<Tensor> {
    if cuda::has_kernels(x) {
        return by_products(x, tokens, weights, how, None);
    }
    absorbed_attention_in(Products::F32, x, tokens, weights, how)
}

/// Computes [`absorbed_attention`] with the given products, for tensors in `f32`, on the CPU.
fn absorbed_attention_in(
    products: Products,
    x: &Tensor,
    tokens: &Tensor,
    weights: &AbsorbedWeights,
    how: Attention,
) -> Result<Tensor> {
    let geometry = Geometry {
        products,
        ..geometry(x, tokens, weights, how)?
    };
    let Some(values) = weights.flat() else {
        return absorbed_attention_composed(x, tokens, weights, how);
    };
    let is_in_cache = geometry.keys <= bf16::MOST_KEYS;
    if let Some(kernel) = Bf16Kernel::of([x, tokens, values]).filter(|_| is_in_cache) {
        let op = AbsorbedBf16 {
            geometry,
            kernel,
            width: weights.query.0 - 1,
            outputs: weights.output.1,
            mask: Mask::new(how.dropout, how.mode, geometry)?,
            keep: [x, tokens, values].into_iter().any(Tensor::track_op),
            packed: weights.packed(),
            kept: Mutex::new(Vec::new()),
        };
        return apply_op3(
            &x.contiguous()?,
            &tokens.contiguous()?,
            &values.contiguous()?,
            op,
        );
    }
    if is_narrow_on_cpu(x) {
        let products = Products::of(x.dtype());
        return widened([x, tokens, values], |[x, tokens, values]| {
            let weights = weights.with_flat(values);
            absorbed_attention_in(products, x, tokens, &weights, how)
        });
    }
    let inputs = [x, tokens, values];
    if !inputs.into_iter().all(cpu::has_kernels) {
        return absorbed_attention_composed(x, tokens, weights, how);
    }
    let op = AbsorbedAttention {
        geometry,
        width: weights.query.0 - 1,
        outputs: weights.output.1,
        mask: Mask::new(how.dropout, how.mode, geometry)?,
        keep: inputs.into_iter().any(Tensor::track_op),
        kept: Mutex::new(Vec::new()),
    };
    apply_op3(
        &x.contiguous()?,
        &tokens.contiguous()?,
        &values.contiguous()?,
        op,
    )
}

/// Computes [`absorbed_attention`] plus the residual `onto` of the same shape.
///
/// # Errors
/// As for [`absorbed_attention`], and when the shapes differ.
pub fn absorbed_attention_residual(
    onto: &Tensor,
    x: &Tensor,
    tokens: &Tensor,
    weights: &AbsorbedWeights,
    how: Attention,
) -> Result<Tensor> {
    if cuda::has_kernels(x) {
        return by_products(x, tokens, weights, how, Some(onto));
    }
    let read = absorbed_attention(x, tokens, weights, how)?;
    add_dropout(onto, &read, 0.0, Mode::Inference)
}

fn by_products(
    x: &Tensor,
    tokens: &Tensor,
    weights: &AbsorbedWeights,
    how: Attention,
    onto: Option<&Tensor>,
) -> Result<Tensor> {
    let rows = rows_of(geometry(x, tokens, weights, how)?, how)?;
    let weights = weights.rows(how.heads)?;
    gpu::attention(x, tokens, &weights, rows, onto)
}
