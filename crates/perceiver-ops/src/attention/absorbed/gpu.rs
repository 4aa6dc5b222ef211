//! Absorbed attention composed of whole-tensor products with a hand-written backward pass, for
//! GPUs.
//!
//! Every vector ends in a 1, which multiplies the bias; its product with the probabilities is also
//! their sum after dropout.

use candle_core::{Result, Shape, Storage, Tensor};

use crate::attention::absorbed::weights::WeightRows;
use crate::attention::bias_columns::{with_ones, without_ones};
use crate::attention::gpu::Core;
use crate::attention::softmax_dropout::Rows;
use crate::autograd::custom_function::with_backward;
use crate::nn::broadcast::add_bias;
use crate::nn::matmul::product;
use crate::nn::residual::add_biased_dropout;
use crate::{Mode, Transpose, add_dropout, batched_matmul};

/// Computes absorbed attention of `x` `[batch, n, width]` to `tokens` `[batch, m, token_width]`:
/// `[batch, n, outputs]`, plus an optional residual of that shape.
pub(crate) fn attention(
    x: &Tensor,
    tokens: &Tensor,
    weights: &WeightRows,
    rows: Rows,
    onto: Option<&Tensor>,
) -> Result<Tensor> {
    let WeightRows { values, bias, .. } = weights;
    let are_tokens = x.id() == tokens.id();
    let (x, tokens) = (x.contiguous()?, tokens.contiguous()?);
    let (projected, pass) = Pass::forward(
        &x.detach(),
        (!are_tokens).then_some(&tokens.detach()),
        weights.matrices()?.map(|matrix| matrix.detach()),
        rows,
    )?;
    let projected = with_backward([&x, &tokens, values], projected, move |grad| {
        pass.backward(grad)
    })?;
    match (onto, bias) {
        (Some(x), Some(bias)) => add_biased_dropout(x, &projected, bias, 0.0, Mode::Inference),
        (Some(x), None) => add_dropout(x, &projected, 0.0, Mode::Inference),
        (None, Some(bias)) => add_bias(&projected, bias),
        (None, None) => Ok(projected),
    }
}

/// A forward pass with the values for its backward pass.
struct Pass {
    x: Tensor,      // [1, batch * n, padded width]
    query: Tensor,  // [1, padded width, heads * token_width]
    output: Tensor, // [1, heads * padded token_width, outputs]
    read: Tensor,   // [1, batch * n, heads * padded token_width]
    core: Core,
    sizes: (usize, usize),  // batch and n
    widths: (usize, usize), // of `x` and tokens
    are_tokens: bool,
}

impl Pass {
    /// Runs the forward pass; without `tokens` it is self-attention of `x`.
    fn forward(
        x: &Tensor,
        tokens: Option<&Tensor>,
        [query, output]: [Tensor; 2],
        rows: Rows,
    ) -> Result<((Storage, Shape), Self)> {
        let (batch, n, width) = x.dims3()?;
        let heads = rows.g.heads;
        let x_and_ones = with_ones(x)?;
        let (keys, values) = match tokens {
            None => (x.clone(), x_and_ones.clone()),
            Some(tokens) => (tokens.clone(), with_ones(tokens)?),
        };
        let token_width = keys.dim(2)?;
        let x = x_and_ones.reshape((1, batch * n, ()))?;
        let queries = batched_matmul(&x, &query, Transpose::Neither)?;
        let queries = queries.reshape((batch, n * heads, token_width))?;
        let core = Core::forward(&queries, &keys, &values, rows)?;
        let read = core.read()?.reshape((1, batch * n, ()))?;
        let (projected, _) = product(&read, &output, Transpose::Neither)?;
        let shape = Shape::from((batch, n, output.dim(2)?));
        let pass = Self {
            x,
            query,
            output,
            read,
            core,
            sizes: (batch, n),
            widths: (width, token_width),
            are_tokens: tokens.is_none(),
        };
        Ok(((projected, shape), pass))
    }

    /// Computes the gradients of `x`, of separate tokens, and of both weights, concatenated.
    fn backward(&self, grad: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let ((batch, n), (width, token_width)) = (self.sizes, self.widths);
        let grad = grad.reshape((1, batch * n, ()))?;
        let output = batched_matmul(&self.read, &grad, Transpose::Left)?;
        let read = batched_matmul(&grad, &self.output, Transpose::Right)?;
        let read = read.reshape((batch, self.core.queries_per_image(), ()))?;
        let [queries, keys, values] = self.core.backward(&read)?;
        let queries = queries.reshape((1, batch * n, ()))?;
        let query = batched_matmul(&self.x, &queries, Transpose::Left)?;
        let x = batched_matmul(&queries, &self.query, Transpose::Right)?.reshape((batch, n, ()))?;
        let weights = Tensor::cat(&[query.flatten_all()?, output.flatten_all()?], 0)?;
        if self.are_tokens {
            let x = (without_ones(&(x + values)?, width)? + keys)?;
            return Ok([Some(x), None, Some(weights)]);
        }
        let tokens = (without_ones(&values, token_width)? + keys)?;
        Ok([Some(without_ones(&x, width)?), Some(tokens), Some(weights)])
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};
    use proptest::prelude::*;

    use super::*;
    use crate::attention::absorbed::shape::rows_of;
    use crate::attention::dropout_mask::Mask;
    use crate::attention::gpu;
    use crate::attention::shape::Geometry;
    use crate::{AbsorbedWeights, Attention, Mode, RngKey, absorbed_attention};

    fn variable(seed: u64, shape: &[usize]) -> Var {
        let values = (0..shape.iter().product::<usize>() as u64)
            .map(|i| (RngKey::new(seed).bits(i) >> 57) as f32 / 64.0 - 1.0) // exact in bf16
            .collect::<Vec<_>>();
        Var::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    /// Computes a function and its gradients in a type; returns them in `f32`.
    fn outcome(
        inputs: &[Var],
        dtype: DType,
        function: impl Fn(&[Tensor]) -> Tensor,
    ) -> Vec<Tensor> {
        let narrow = inputs.iter().map(|input| input.to_dtype(dtype).unwrap());
        let output = function(&narrow.collect::<Vec<_>>())
            .to_dtype(DType::F32)
            .unwrap();
        let weights = variable(99, output.dims());
        let gradients = (&output * weights.as_tensor()).unwrap().backward().unwrap();
        let of = |input: &Var| gradients.get(input).unwrap().clone();
        std::iter::once(output)
            .chain(inputs.iter().map(of))
            .collect()
    }

    /// Asserts that the norm of the difference is at most `share` of the expected norm.
    fn assert_close(found: &[Tensor], expected: &[Tensor], share: f64) {
        let length = |x: &Tensor| crate::sum_of_squares(x).unwrap().sqrt();
        for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert_eq!(found.dims(), expected.dims());
            let (difference, whole) = (length(&(found - expected).unwrap()), length(expected));
            assert!(
                difference <= share * whole,
                "{index}: {difference} of {whole}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// In 16 bits, rounding errors average out except at the smallest sizes.
        #[test]
        fn all_is_as_the_cpus_kernel_has_it(
            n in 20_usize..70, m in 20_usize..90, heads in 1_usize..4, width in 10_usize..40, reads_itself: bool, dropout in 0.0_f64..0.4,
            seed: u64,
        ) {
            let how = Attention { heads, scale: 0.5, dropout, mode: Mode::Training(RngKey::new(seed)) };
            let x = variable(seed, &[2, n, width]);
            let tokens = variable(seed ^ 1, &[2, m, width]);
            let query = variable(seed ^ 2, &[width + 1, heads * width]);
            let output = variable(seed ^ 3, &[heads * width + heads + 1, 7]);
            let inputs = if reads_itself { vec![x, query, output] } else { vec![x, query, output, tokens] };
            let weights = |t: &[Tensor]| AbsorbedWeights::new(&t[1], &t[2]).unwrap();
            let tokens_of = |t: &[Tensor]| t.get(3).unwrap_or(&t[0]).clone();
            let expected = outcome(&inputs, DType::F32, |t| {
                absorbed_attention(&t[0], &tokens_of(t), &weights(t), how).unwrap()
            });
            let written_out = |t: &[Tensor]| {
                let (tokens, weights) = (tokens_of(t), weights(t));
                let keys = tokens.dim(1).unwrap();
                let g = Geometry::new(&[2, n, heads * width], &[2, keys, width], &[2, keys, width], how).unwrap();
                attention(&t[0], &tokens, &weights.rows(heads).unwrap(), rows_of(g, how).unwrap(), None).unwrap()
            };
            for (dtype, share) in [(DType::F32, 1e-5), (DType::BF16, 1e-2)] {
                assert_close(&outcome(&inputs, dtype, written_out), &expected, share);
            }
        }

        #[test]
        fn so_is_attention_of_heads_with_keys_of_their_own(
            n in 20_usize..70, m in 20_usize..90, heads in 1_usize..4, width in 10_usize..40, dropout in 0.0_f64..0.4, seed: u64,
        ) {
            let how = Attention { heads, scale: 0.5, dropout, mode: Mode::Training(RngKey::new(seed)) };
            let of = |add: u64, length: usize| variable(seed ^ add, &[2, length, heads * width]);
            let inputs = [of(0, n), of(1, m), of(2, m)];
            let expected = outcome(&inputs, DType::F32, |t| crate::attention(&t[0], &t[1], &t[2], how).unwrap());
            let g = Geometry::new(inputs[0].dims(), inputs[1].dims(), inputs[2].dims(), how).unwrap();
            let mask = Mask::new(dropout, how.mode, g).unwrap();
            let by_head = |x: &Tensor| crate::split_heads(x, heads).unwrap();
            for (dtype, share) in [(DType::F32, 1e-5), (DType::BF16, 1e-2)] {
                let found = outcome(&inputs, dtype, |t| {
                    let rows = Rows { g, mask, by_head: true };
                    let read = gpu::attention(&by_head(&t[0]), &by_head(&t[1]), &by_head(&t[2]), rows).unwrap();
                    crate::join_heads(&read).unwrap()
                });
                assert_close(&found, &expected, share);
            }
        }
    }
}
