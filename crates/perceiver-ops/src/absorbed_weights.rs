//! The projections of an attention absorbed into two.
//!
//! With tokens `x`, a head's logits are `(q(l)) (Wk x + bk)^T`. The part with `bk` is the same for all keys, so softmax does
//! not see it, and the rest is `(Wk^T q(l)) x`: queries of the tokens' width that meet the tokens themselves. Likewise
//! `Wo P (Wv x + bv)` is `(Wo Wv) (P x) + (Wo bv) sum(P)`, where the sum is 1 unless dropout took part of it. The products of
//! weights are made once a pass, not once an image; their gradients flow back to the four projections. It is the same
//! function, and cheaper where heads are wide: the eight heads of the Keras example are each as wide as the model.

use candle_core::{Result, Tensor};

use crate::attention::ones::{with_column, with_padding};
use crate::noted::{cat, reshape, transposed};
use crate::{Transpose, batched_matmul, cuda, join_heads, multiply_scalar, split_heads};

/// The projections of an attention as layers have them: weights `[outputs, inputs]` and biases `[outputs]`.
#[derive(Clone, Copy, Debug)]
pub struct Projections<'a> {
    /// Heads, which have equal parts of the outputs.
    pub heads: usize,
    /// Makes queries of the asking vectors.
    pub query: [&'a Tensor; 2],
    /// Makes keys of the tokens.
    pub key: [&'a Tensor; 2],
    /// Makes values of the tokens.
    pub value: [&'a Tensor; 2],
    /// None where the heads' values, or rather the one head's, are the result.
    pub output: Option<[&'a Tensor; 2]>,
    /// A learned factor on the queries, a scalar.
    pub scale: Option<&'a Tensor>,
}

/// The two projections of [`absorbed_attention`](crate::absorbed_attention).
#[derive(Clone, Debug)]
pub struct AbsorbedWeights {
    form: Form,
    pub(crate) query: (usize, usize), // rows and columns
    pub(crate) output: (usize, usize),
}

#[derive(Clone, Debug)]
enum Form {
    /// All values, the query's rows, then the output's: an operation of candle takes three tensors.
    Flat(Tensor),
    Rows(WeightRows),
}

/// What products of whole tensors take: a bias is a row that meets the 1 behind every row, zeros follow up to a multiple of 8.
#[derive(Clone, Debug)]
pub(crate) struct WeightRows {
    /// Both matrices, one after the other.
    pub(crate) values: Tensor,
    sizes: [(usize, usize); 2],
    pub(crate) bias: Option<Tensor>, // [outputs]
}

impl WeightRows {
    /// Of `[padded width, heads * token_width]` and `[heads * padded token_width, outputs]`.
    fn new(query: &Tensor, output: &Tensor, bias: Option<Tensor>) -> Result<Self> {
        Ok(Self {
            values: together(query, output)?,
            sizes: [query.dims2()?, output.dims2()?],
            bias,
        })
    }

    /// The query's and the output's matrix, a batch of one each.
    pub(crate) fn matrices(&self) -> Result<[Tensor; 2]> {
        let [query, output] = apart(&self.values, self.sizes)?;
        Ok([query.unsqueeze(0)?, output.unsqueeze(0)?])
    }
}

/// The values of two matrices, one after the other.
fn together(first: &Tensor, second: &Tensor) -> Result<Tensor> {
    cat(&[&reshape(first, ((),))?, &reshape(second, ((),))?], 0)
}

/// The matrices of these rows and columns.
fn apart(values: &Tensor, [first, second]: [(usize, usize); 2]) -> Result<[Tensor; 2]> {
    let start = first.0 * first.1;
    let second_values = values.narrow(0, start, second.0 * second.1)?;
    Ok([
        values.narrow(0, 0, start)?.reshape(first)?,
        second_values.reshape(second)?,
    ])
}

impl AbsorbedWeights {
    /// `query` `[width + 1, heads * token_width]`, with the bias as last row, makes queries of the asking vectors. `output`
    /// `[heads * token_width + heads + 1, outputs]` projects what the heads read; then come, for every head, what its
    /// probabilities' sum is worth, and the bias.
    ///
    /// # Errors
    /// When either is no matrix or they are of different types.
    pub fn new(query: &Tensor, output: &Tensor) -> Result<Self> {
        Ok(Self {
            form: Form::Flat(together(query, output)?),
            query: query.dims2()?,
            output: output.dims2()?,
        })
    }

    /// The tensors that they are made of: to exchange for others of the same sizes.
    pub fn tensors_mut(&mut self) -> Vec<&mut Tensor> {
        match &mut self.form {
            Form::Flat(values) => vec![values],
            Form::Rows(WeightRows { values, bias, .. }) => {
                std::iter::once(values).chain(bias).collect()
            }
        }
    }

    /// The query's projection, `[width + 1, heads * token_width]`.
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

    /// All values, where they are together.
    pub(crate) fn flat(&self) -> Option<&Tensor> {
        match &self.form {
            Form::Flat(values) => Some(values),
            Form::Rows(_) => None,
        }
    }

    /// Other values of the same sizes.
    pub(crate) fn with_flat(&self, values: &Tensor) -> Self {
        Self {
            form: Form::Flat(values.clone()),
            ..*self
        }
    }

    /// The projections for products of whole tensors.
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
    /// The two projections that remain.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn absorb(&self) -> Result<AbsorbedWeights> {
        if cuda::has_kernels(self.query[0]) {
            return self.in_rows();
        }
        AbsorbedWeights::new(&self.queries()?, &self.outputs()?)
    }

    /// `Wq_h^T Wk_h` side by side for all heads, and `bq_h Wk_h` as last row: `[width + 1, heads * token_width]`.
    fn queries(&self) -> Result<Tensor> {
        let ([weight, bias], [key, key_bias]) = (self.query, self.key);
        let token_width = key.dim(1)?;
        let heads = |x: &Tensor, width: usize| x.reshape((1, self.heads, (), width));
        let key = heads(key, token_width)?; // [1, heads, head_width, token_width]
        let query = heads(weight, weight.dim(1)?)?; // [1, heads, head_width, width]
        let bias = heads(bias, 1)?; // [1, heads, head_width, 1]
        let weight = join_heads(&batched_matmul(&query, &key, Transpose::Left)?)?; // [1, width, heads * token_width]
        let bias = join_heads(&batched_matmul(&bias, &key, Transpose::Left)?)?; // [1, 1, heads * token_width]
        // The key's bias changes nothing. It stays in the graph all the same, so that its gradient is there, and zero: candle
        // prunes a product with 0.
        let sum = key_bias.sum_all()?;
        let nothing = sum.broadcast_sub(&sum)?;
        let rows = Tensor::cat(&[weight, bias.broadcast_add(&nothing)?], 1)?.squeeze(0)?;
        self.scaled(rows)
    }

    /// `Wv_h^T Wo_h^T` for head after head, then `bv_h Wo_h^T` for all, then the output's bias:
    /// `[heads * token_width + heads + 1, outputs]`.
    fn outputs(&self) -> Result<Tensor> {
        let [value, value_bias] = self.value;
        let (inner, token_width) = value.dims2()?;
        let Some([output, output_bias]) = self.output else {
            let bias = value_bias.unsqueeze(0)?;
            return Tensor::cat(&[&value.t()?, &bias, &bias.zeros_like()?], 0);
        };
        let heads =
            |x: &Tensor, width: usize| x.reshape((1, self.heads, inner / self.heads, width));
        let outputs = output_bias.dim(0)?;
        let output_heads = split_heads(&output.unsqueeze(0)?, self.heads)?; // [1, heads, outputs, head_width]
        let project =
            |x: &Tensor| batched_matmul(x, &output_heads, Transpose::Both)?.reshape(((), outputs));
        let weight = project(&heads(value, token_width)?)?; // [heads * token_width, outputs]
        let sums = project(&heads(value_bias, 1)?)?; // [heads, outputs]
        Tensor::cat(&[weight, sums, output_bias.unsqueeze(0)?], 0)
    }

    /// The same in the form for products of whole tensors, by few operations: biases enter the products as columns of the weights.
    pub(crate) fn in_rows(&self) -> Result<AbsorbedWeights> {
        let ([weight, bias], [key, key_bias]) = (self.query, self.key);
        let heads = |x: &Tensor| reshape(x, (self.heads, x.dim(0)? / self.heads, ()));
        // Its gradient is there, and zero, though the key's bias changes nothing.
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
    use crate::{Attention, Key, Mode, absorbed_attention, absorbed_attention_composed};

    fn variable(seed: u64, shape: &[usize]) -> Var {
        let values = (0..shape.iter().product::<usize>() as u64)
            .map(|i| (Key::new(seed).bits(i) >> 40) as f32 / 8_388_608.0 - 1.0)
            .collect::<Vec<_>>();
        Var::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    /// Both forms, with an output of several heads and without, give the same values and gradients of all parameters.
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
            let mode = Mode::Training(Key::new(3));
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
