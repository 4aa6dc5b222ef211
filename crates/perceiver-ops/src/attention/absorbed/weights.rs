//! Weights of absorbed attention: query-key and value-output projections multiplied together.
//!
//! With tokens `x`, the logits of a head are `(q(l)) (Wk x + bk)^T`. The part with `bk` is the same
//! for all keys, so softmax cancels it, and the rest is `(Wk^T q(l)) x`: queries of the tokens'
//! width that meet the tokens themselves. Likewise `Wo P (Wv x + bv)` is
//! `(Wo Wv) (P x) + (Wo bv) sum(P)`, where the sum is 1 unless dropout reduces it. The weight
//! products are computed once per pass, not per image; their gradients flow back to the four
//! projections. The function is the same, and cheaper with wide heads: each of the eight heads of
//! the Keras example is as wide as the model.

use std::sync::{Arc, OnceLock};

use candle_core::{Result, Tensor};

use crate::attention::bias_columns::{with_column, with_padding};
use crate::autograd::recorded_ops::{cat, reshape, transposed};
use crate::{
    PackedMatrix, Transpose, batched_matmul, cuda, join_heads, multiply_scalar, split_heads,
};

/// The projections of an attention layer: weights `[outputs, inputs]` and biases `[outputs]`.
#[derive(Clone, Copy, Debug)]
pub struct Projections<'a> {
    /// Number of heads, which split the outputs equally.
    pub heads: usize,
    /// Projection from query inputs to queries.
    pub query: [&'a Tensor; 2],
    /// Projection from tokens to keys.
    pub key: [&'a Tensor; 2],
    /// Projection from tokens to values.
    pub value: [&'a Tensor; 2],
    /// Output projection; `None` if the values of the single head are the result.
    pub output: Option<[&'a Tensor; 2]>,
    /// Learned scale of the queries, a scalar.
    pub scale: Option<&'a Tensor>,
}

/// The two remaining projections of [`absorbed_attention`](crate::absorbed_attention).
#[derive(Clone, Debug)]
pub struct AbsorbedWeights {
    form: Form,
    packed: PackedWeights,
    pub(crate) query: (usize, usize), // rows and columns
    pub(crate) output: (usize, usize),
}

/// Both projections as right operands in bf16, packed by the first pass that no backward pass
/// follows: a pass on one image would spend a tenth of its time on it.
pub(crate) type PackedWeights = Arc<OnceLock<[PackedMatrix; 2]>>;

#[derive(Clone, Debug)]
enum Form {
    /// All values, the query's rows before the output's, since an operation of candle takes at most
    /// three tensors.
    Flat(Tensor),
    Rows(WeightRows),
}

/// The weights for whole-tensor products: the bias is a row for the 1 at the end of every input
/// row, then zeros up to a multiple of 8.
#[derive(Clone, Debug)]
pub(crate) struct WeightRows {
    /// Both matrices, concatenated.
    pub(crate) values: Tensor,
    sizes: [(usize, usize); 2],
    pub(crate) bias: Option<Tensor>, // [outputs]
}

impl WeightRows {
    /// Creates weights from `[padded width, heads * token_width]` and
    /// `[heads * padded token_width, outputs]`.
    fn new(query: &Tensor, output: &Tensor, bias: Option<Tensor>) -> Result<Self> {
        Ok(Self {
            values: together(query, output)?,
            sizes: [query.dims2()?, output.dims2()?],
            bias,
        })
    }

    /// Returns the query and output matrices, each as a batch of one.
    pub(crate) fn matrices(&self) -> Result<[Tensor; 2]> {
        let [query, output] = apart(&self.values, self.sizes)?;
        Ok([query.unsqueeze(0)?, output.unsqueeze(0)?])
    }
}

/// Concatenates the values of two matrices.
fn together(first: &Tensor, second: &Tensor) -> Result<Tensor> {
    cat(&[&reshape(first, ((),))?, &reshape(second, ((),))?], 0)
}

/// Splits concatenated values into matrices of the given rows and columns.
fn apart(values: &Tensor, [first, second]: [(usize, usize); 2]) -> Result<[Tensor; 2]> {
    let start = first.0 * first.1;
    let second_values = values.narrow(0, start, second.0 * second.1)?;
    Ok([
        values.narrow(0, 0, start)?.reshape(first)?,
        second_values.reshape(second)?,
    ])
}

impl AbsorbedWeights {
    /// Creates the weights from `query` `[width + 1, heads * token_width]`, with the bias as its
    /// last row, and `output` `[heads * token_width + heads + 1, outputs]`: the projection of the
    /// heads' outputs, then one row per head for the sum of its probabilities, and the bias.
    ///
    /// # Errors
    /// When either is no matrix or their types differ.
    pub fn new(query: &Tensor, output: &Tensor) -> Result<Self> {
        Ok(Self {
            form: Form::Flat(together(query, output)?),
            packed: PackedWeights::default(),
            query: query.dims2()?,
            output: output.dims2()?,
        })
    }

    /// Returns the underlying tensors, to replace by others of the same sizes.
    pub fn tensors_mut(&mut self) -> Vec<&mut Tensor> {
        self.packed = PackedWeights::default();
        match &mut self.form {
            Form::Flat(values) => vec![values],
            Form::Rows(WeightRows { values, bias, .. }) => {
                std::iter::once(values).chain(bias).collect()
            }
        }
    }

    /// Returns the query projection, `[width + 1, heads * token_width]`.
    ///
    /// # Errors
    /// When candle refuses an operation.
    pub fn query(&self) -> Result<Tensor> {
        match &self.form {
            Form::Flat(values) => {
                let [query, _] = apart(values, [self.query, self.output])?;
                Ok(query)
            }
            Form::Rows(rows) => {
                let [query, _] = rows.matrices()?;
                query.squeeze(0)?.narrow(0, 0, self.query.0)
            }
        }
    }

    /// Returns the output projection as [`AbsorbedWeights::new`] takes it,
    /// `[heads * token_width + heads + 1, outputs]`.
    ///
    /// # Errors
    /// When candle refuses an operation.
    pub fn output(&self) -> Result<Tensor> {
        let rows = match &self.form {
            Form::Flat(values) => {
                let [_, output] = apart(values, [self.query, self.output])?;
                return Ok(output);
            }
            Form::Rows(rows) => rows,
        };
        let (inner, outputs) = (self.query.1, self.output.1);
        let heads = self.output.0 - inner - 1;
        let [_, output] = rows.matrices()?;
        let output = output.reshape((heads, (), outputs))?; // with the padding of every head
        let of_tokens = output.narrow(1, 0, inner / heads)?;
        let of_sums = output.narrow(1, inner / heads, 1)?;
        let bias = match &rows.bias {
            Some(bias) => bias.reshape((1, outputs))?,
            None => Tensor::zeros((1, outputs), output.dtype(), output.device())?,
        };
        let [of_tokens, of_sums] = [of_tokens, of_sums].map(|rows| rows.reshape(((), outputs)));
        Tensor::cat(&[of_tokens?, of_sums?, bias], 0)
    }

    /// Returns all values, if they are in one tensor.
    pub(crate) fn flat(&self) -> Option<&Tensor> {
        match &self.form {
            Form::Flat(values) => Some(values),
            Form::Rows(_) => None,
        }
    }

    /// Returns weights with other values of the same sizes.
    pub(crate) fn with_flat(&self, values: &Tensor) -> Self {
        Self {
            form: Form::Flat(values.clone()),
            packed: PackedWeights::default(),
            ..*self
        }
    }

    /// Returns where the packed projections are, or will be.
    pub(crate) fn packed(&self) -> PackedWeights {
        Arc::clone(&self.packed)
    }

    /// Returns the projections for whole-tensor products.
    pub(crate) fn rows(&self, heads: usize) -> Result<WeightRows> {
        let values = match &self.form {
            Form::Flat(values) => values,
            Form::Rows(rows) => return Ok(rows.clone()),
        };
        let (inner, outputs) = (self.query.1, self.output.1);
        let [query, output] = apart(values, [self.query, self.output])?;
        let of_tokens = output.narrow(0, 0, inner)?.reshape((heads, (), outputs))?;
        let of_sums = output
            .narrow(0, inner, heads)?
            .reshape((heads, 1, outputs))?;
        let rows = with_padding(&Tensor::cat(&[of_tokens, of_sums], 1)?, 1)?;
        let bias = output.get(inner + heads)?;
        WeightRows::new(
            &with_padding(&query, 0)?,
            &rows.reshape(((), outputs))?,
            Some(bias),
        )
    }
}

impl Projections<'_> {
    /// Computes the two remaining projections.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn absorb(&self) -> Result<AbsorbedWeights> {
        if cuda::has_kernels(self.query[0]) {
            return self.in_rows();
        }
        AbsorbedWeights::new(&self.queries()?, &self.outputs()?)
    }

    /// Computes `Wq_h^T Wk_h`, concatenated over heads, with `bq_h Wk_h` as the last row:
    /// `[width + 1, heads * token_width]`.
    fn queries(&self) -> Result<Tensor> {
        let ([weight, bias], [key, key_bias]) = (self.query, self.key);
        let token_width = key.dim(1)?;
        let heads = |x: &Tensor, width: usize| reshape(x, (1, self.heads, (), width));
        let key = heads(key, token_width)?; // [1, heads, head_width, token_width]
        let query = heads(weight, weight.dim(1)?)?; // [1, heads, head_width, width]
        let bias = heads(bias, 1)?; // [1, heads, head_width, 1]
        let weight = join_heads(&batched_matmul(&query, &key, Transpose::Left)?)?; // [1, width, heads * token_width]
        let bias = join_heads(&batched_matmul(&bias, &key, Transpose::Left)?)?; // [1, 1, heads * token_width]
        // The key bias has no effect, but stays in the graph so that it has a gradient, which is
        // zero: candle prunes a product with 0.
        let sum = key_bias.sum_all()?;
        let nothing = sum.broadcast_sub(&sum)?;
        let rows = cat(&[&weight, &bias.broadcast_add(&nothing)?], 1)?;
        let rows = reshape(&rows, ((), self.heads * token_width))?;
        self.scaled(rows)
    }

    /// Computes `Wv_h^T Wo_h^T` for every head, then `bv_h Wo_h^T` for all heads, then the output
    /// bias: `[heads * token_width + heads + 1, outputs]`.
    fn outputs(&self) -> Result<Tensor> {
        let [value, value_bias] = self.value;
        let (inner, token_width) = value.dims2()?;
        let row = |x: &Tensor| reshape(x, (1, ()));
        let Some([output, output_bias]) = self.output else {
            let bias = row(value_bias)?;
            return cat(&[&transposed(value, 0, 1)?, &bias, &bias.zeros_like()?], 0);
        };
        let heads =
            |x: &Tensor, width: usize| reshape(x, (1, self.heads, inner / self.heads, width));
        let outputs = output_bias.dim(0)?;
        let output = reshape(output, (1, outputs, ()))?;
        let output_heads = split_heads(&output, self.heads)?; // [1, heads, outputs, head_width]
        let project = |x: &Tensor| {
            let product = batched_matmul(x, &output_heads, Transpose::Both)?;
            reshape(&product, ((), outputs))
        };
        let weight = project(&heads(value, token_width)?)?; // [heads * token_width, outputs]
        let sums = project(&heads(value_bias, 1)?)?; // [heads, outputs]
        cat(&[&weight, &sums, &row(output_bias)?], 0)
    }

    /// Computes the weights for whole-tensor products in few operations: biases enter the products
    /// as columns of the weights.
    pub(crate) fn in_rows(&self) -> Result<AbsorbedWeights> {
        let ([weight, bias], [key, key_bias]) = (self.query, self.key);
        let heads = |x: &Tensor| reshape(x, (self.heads, x.dim(0)? / self.heads, ()));
        // The key bias has no effect, but gets a gradient of zero.
        let query = heads(&with_column(weight, bias, Some(key_bias))?)?; // [heads, head_width, padded width]
        let one = |x: &Tensor| reshape(x, [&[1], x.dims()].concat());
        let query = batched_matmul(&query, &heads(key)?, Transpose::Left)?; // [heads, padded width, token_width]
        let query = self.scaled(reshape(&join_heads(&one(&query)?)?, (query.dim(1)?, ()))?)?;
        let [value, value_bias] = self.value;
        let value = with_column(value, value_bias, None)?; // [inner, padded token_width]
        let output = match self.output {
            None => transposed(&value, 0, 1)?,
            Some([output, _]) => {
                let output = split_heads(&one(output)?, self.heads)?;
                let output = reshape(&output, &output.dims()[1..])?; // [heads, outputs, head_width]
                let rows = batched_matmul(&heads(&value)?, &output, Transpose::Both)?;
                reshape(&rows, ((), output.dim(1)?))?
            }
        };
        let (inner, outputs) = (query.dim(1)?, output.dim(1)?);
        let bias = self.output.map(|[_, bias]| bias.clone());
        Ok(AbsorbedWeights {
            query: (weight.dim(1)? + 1, inner),
            output: (inner + self.heads + 1, outputs),
            form: Form::Rows(WeightRows::new(&query, &output, bias)?),
            packed: PackedWeights::default(),
        })
    }

    fn scaled(&self, queries: Tensor) -> Result<Tensor> {
        match self.scale {
            Some(scale) => multiply_scalar(&queries, scale),
            None => Ok(queries),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;
    use crate::{Attention, Mode, RngKey, absorbed_attention, absorbed_attention_composed};

    fn variable(seed: u64, shape: &[usize]) -> Var {
        let values = (0..shape.iter().product::<usize>() as u64)
            .map(|i| (RngKey::new(seed).bits(i) >> 40) as f32 / 8_388_608.0 - 1.0)
            .collect::<Vec<_>>();
        Var::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    /// Both forms give the same values and gradients of all parameters, with and without an output
    /// projection.
    #[test]
    fn both_forms_are_the_same_function() {
        let (width, token_width, outputs) = (5, 7, 6);
        for (heads, inner, projects) in [(2, 8, true), (1, 6, false)] {
            let shapes = [
                [vec![inner, width], vec![inner]],
                [vec![inner, token_width], vec![inner]],
                [vec![inner, token_width], vec![inner]],
                [vec![outputs, inner], vec![outputs]],
            ];
            let layers = shapes.iter().flatten().enumerate();
            let layers: Vec<Var> = layers.map(|(i, shape)| variable(i as u64, shape)).collect();
            let (scale, x) = (variable(20, &[]), variable(21, &[2, 3, width]));
            let tokens = variable(22, &[2, 9, token_width]);
            let layer = |at: usize| [layers[2 * at].as_tensor(), layers[2 * at + 1].as_tensor()];
            let projections = Projections {
                heads,
                query: layer(0),
                key: layer(1),
                value: layer(2),
                output: projects.then(|| layer(3)),
                scale: Some(&scale),
            };
            let mode = Mode::Training(RngKey::new(3));
            for dropout in [0.0, 0.3] {
                let how = Attention {
                    heads,
                    scale: 0.5,
                    dropout,
                    mode,
                };
                let flat = projections.absorb().unwrap();
                let expected = absorbed_attention(&x, &tokens, &flat, how).unwrap();
                let rows = projections.in_rows().unwrap();
                let found = absorbed_attention_composed(&x, &tokens, &rows, how).unwrap();
                let logits = |weights: &AbsorbedWeights| weights.query().unwrap();
                assert_close(&logits(&rows), &logits(&flat));
                assert_close(&rows.output().unwrap(), &flat.output().unwrap());
                assert_close(&found, &expected);
                let weigh = |y: &Tensor| (y * variable(30, y.dims()).as_tensor()).unwrap();
                let [found, expected] = [found, expected].map(|y| weigh(&y).backward().unwrap());
                let used = if projects { 8 } else { 6 };
                for variable in layers[..used].iter().chain([&scale, &x, &tokens]) {
                    let [found, expected] =
                        [&found, &expected].map(|all| all.get(variable).unwrap());
                    assert_close(found, expected);
                }
            }
        }
    }

    /// Weights that replace others are packed anew.
    #[test]
    fn replaced_weights_are_used() {
        let narrow = |seed: u64, shape: &[usize]| {
            let values = variable(seed, shape).to_dtype(DType::BF16).unwrap();
            values.detach()
        };
        let [x, tokens] = [5, 7].map(|n| narrow(n, &[2, n as usize, 16]));
        let new = |seed| AbsorbedWeights::new(&narrow(seed, &[17, 32]), &narrow(seed, &[35, 16]));
        let [mut changed, expected] = [new(1).unwrap(), new(2).unwrap()];
        let how = Attention {
            heads: 2,
            scale: 1.0,
            dropout: 0.0,
            mode: Mode::Inference,
        };
        let run = |weights: &AbsorbedWeights| {
            let read = absorbed_attention(&x, &tokens, weights, how).unwrap();
            read.to_dtype(DType::F32)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap()
        };
        let before = run(&changed);
        assert_eq!(run(&changed), before);
        for tensor in changed.tensors_mut() {
            *tensor = expected.flat().unwrap().clone();
        }
        assert_eq!(run(&changed), run(&expected));
        assert_ne!(run(&changed), before);
    }

    fn assert_close(found: &Tensor, expected: &Tensor) {
        assert_eq!(found.dims(), expected.dims());
        let difference = (found - expected).unwrap().abs().unwrap();
        let most = difference.flatten_all().unwrap().max(0).unwrap();
        assert!(
            most.to_dtype(DType::F64)
                .unwrap()
                .to_scalar::<f64>()
                .unwrap()
                < 1e-4
        );
    }
}
