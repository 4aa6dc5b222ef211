//! Attention with fewer products: the projections of keys and values absorbed into those of queries and outputs.
//!
//! With tokens `x`, a head's logits are `(q(l)) (Wk x + bk)^T`. The part with `bk` is the same for all keys, so softmax does
//! not see it, and the rest is `(Wk^T q(l)) x`: queries of the tokens' width that meet the tokens themselves. Likewise
//! `Wo P (Wv x + bv)` is `(Wo Wv) (P x) + (Wo bv) sum(P)`, where the sum is 1 unless dropout took part of it. The products of
//! weights are made once a pass, not once an image; their gradients flow back to the four projections. It is the same
//! function, and cheaper where heads are wide: the eight heads of the Keras example are each as wide as the model.

use candle_core::{Result, Tensor};
use perceiver_ops::{
    AbsorbedWeights, Transpose, batched_matmul, join_heads, multiply_scalar, split_heads,
};

use crate::layers::Dense;

/// The projections of an attention as the parameters have them.
#[derive(Clone, Copy)]
pub(crate) struct Projections<'a> {
    pub(crate) heads: usize,
    pub(crate) query: &'a Dense,
    pub(crate) key: &'a Dense,
    pub(crate) value: &'a Dense,
    /// None where the heads' values, or rather the one head's, are the result.
    pub(crate) output: Option<&'a Dense>,
    /// A learned factor on the queries.
    pub(crate) scale: Option<&'a Tensor>,
}

impl Projections<'_> {
    /// The two projections that remain.
    pub(crate) fn absorb(&self) -> Result<AbsorbedWeights> {
        AbsorbedWeights::new(&self.queries()?, &self.outputs()?)
    }

    /// `Wq_h^T Wk_h` side by side for all heads, and `bq_h Wk_h` as last row: `[width + 1, heads * token_width]`.
    fn queries(&self) -> Result<Tensor> {
        let token_width = self.key.weight.dim(1)?;
        let heads = |x: &Tensor, width: usize| x.reshape((1, self.heads, (), width));
        let key = heads(&self.key.weight, token_width)?; // [1, heads, head_width, token_width]
        let query = heads(&self.query.weight, self.query.weight.dim(1)?)?; // [1, heads, head_width, width]
        let bias = heads(&self.query.bias, 1)?; // [1, heads, head_width, 1]
        let weight = join_heads(&batched_matmul(&query, &key, Transpose::Left)?)?; // [1, width, heads * token_width]
        let bias = join_heads(&batched_matmul(&bias, &key, Transpose::Left)?)?; // [1, 1, heads * token_width]
        // The key's bias changes nothing. It stays in the graph all the same, so that its gradient is there, and zero: candle
        // prunes a product with 0.
        let sum = self.key.bias.sum_all()?;
        let nothing = sum.broadcast_sub(&sum)?;
        let rows = Tensor::cat(&[weight, bias.broadcast_add(&nothing)?], 1)?.squeeze(0)?;
        match self.scale {
            Some(scale) => multiply_scalar(&rows, scale),
            None => Ok(rows),
        }
    }

    /// `Wv_h^T Wo_h^T` for head after head, then `bv_h Wo_h^T` for all, then the output's bias:
    /// `[heads * token_width + heads + 1, outputs]`.
    fn outputs(&self) -> Result<Tensor> {
        let (inner, token_width) = self.value.weight.dims2()?;
        let Some(output) = self.output else {
            let bias = self.value.bias.unsqueeze(0)?;
            return Tensor::cat(&[&self.value.weight.t()?, &bias, &bias.zeros_like()?], 0);
        };
        let heads =
            |x: &Tensor, width: usize| x.reshape((1, self.heads, inner / self.heads, width));
        let outputs = output.bias.dim(0)?;
        let output_heads = split_heads(&output.weight.unsqueeze(0)?, self.heads)?; // [1, heads, outputs, head_width]
        let project =
            |x: &Tensor| batched_matmul(x, &output_heads, Transpose::Both)?.reshape(((), outputs));
        let weight = project(&heads(&self.value.weight, token_width)?)?; // [heads * token_width, outputs]
        let sums = project(&heads(&self.value.bias, 1)?)?; // [heads, outputs]
        Tensor::cat(&[weight, sums, output.bias.unsqueeze(0)?], 0)
    }
}
