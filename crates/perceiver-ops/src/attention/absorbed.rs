//! Attention with absorbed projections: `softmax(scale * q t^T) t`, where `q` is a projection of
//! the query inputs, the tokens `t` are keys and values of every head, and an output projection
//! follows.
//!
//! Projections of keys and values are linear, so their products with those of queries and outputs
//! are computed in advance, once for all images. The rest costs less per image if heads are as wide
//! as the tokens.
//!
//! One task is a block of an image's queries, from the first projection to the last: queries and
//! attention outputs stay in a core's cache and never become tensors of the graph.

pub(crate) mod gpu;
pub(crate) mod weights;

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use gemm::Parallelism;
use rayon::prelude::*;

use crate::attention::Attention;
use crate::attention::absorbed::weights::AbsorbedWeights;
use crate::attention::backward::{Image, Inputs};
use crate::attention::batched;
use crate::attention::bias_columns::with_ones_composed;
use crate::attention::dropout_mask::Mask;
use crate::attention::forward::{QUERY_BLOCK, Source, blocks_mut, image_of};
use crate::attention::shape::{Geometry, part};
use crate::attention::softmax_dropout::Rows;
use crate::autograd::recorded_ops::apply_op3;
use crate::cpu;
use crate::cpu::gemm::{Matrix, Sum, Target, multiply, multiply_into};
use crate::cpu::transpose::{transpose, transposed};
use crate::half_precision::{is_narrow_on_cpu, widened};
use crate::nn::broadcast::add_bias;
use crate::nn::linear::weight_gradient;
use crate::{Mode, add_dropout, cuda};

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
    let geometry = geometry(x, tokens, weights, how)?;
    let Some(values) = weights.flat() else {
        return absorbed_attention_composed(x, tokens, weights, how);
    };
    if is_narrow_on_cpu(x) {
        return widened([x, tokens, values], |[x, tokens, values]| {
            absorbed_attention(x, tokens, &weights.with_flat(values), how)
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

/// Computes [`absorbed_attention`] by candle's operations: the fallback for devices without a
/// kernel, and the reference in tests. The dropout mask is the same.
///
/// # Errors
/// As for [`absorbed_attention`].
pub fn absorbed_attention_composed(
    x: &Tensor,
    tokens: &Tensor,
    weights: &AbsorbedWeights,
    how: Attention,
) -> Result<Tensor> {
    let rows = rows_of(geometry(x, tokens, weights, how)?, how)?;
    let (batch, n, _) = x.dims3()?;
    let weights = weights.rows(how.heads)?;
    let [query, output] = weights.matrices()?;
    let product = |x: &Tensor, weights: &Tensor| {
        let product = x.reshape((batch * n, ()))?.matmul(&weights.squeeze(0)?)?;
        product.reshape((batch, n, ()))
    };
    let queries = product(&with_ones_composed(x)?, &query)?;
    let values = with_ones_composed(tokens)?;
    let g = Geometry {
        value_width: values.dim(2)?,
        ..rows.g
    };
    let read = product(
        &batched::read(&queries, tokens, &values, g, rows.mask)?,
        &output,
    )?;
    match &weights.bias {
        Some(bias) => add_bias(&read, bias),
        None => Ok(read),
    }
}

/// Returns the layout of the logits for attention between the projections by whole-tensor products.
pub(crate) fn rows_of(geometry: Geometry, how: Attention) -> Result<Rows> {
    let g = Geometry {
        append_sums: false,
        ..geometry
    };
    Ok(Rows {
        g,
        mask: Mask::new(how.dropout, how.mode, geometry)?,
        by_head: false,
    })
}

/// Returns the sizes of the attention between the projections.
fn geometry(
    x: &Tensor,
    tokens: &Tensor,
    weights: &AbsorbedWeights,
    how: Attention,
) -> Result<Geometry> {
    let (batch, n, width) = x.dims3()?;
    let (_, _, token_width) = tokens.dims3()?;
    let inner = how.heads * token_width;
    if weights.query != (width + 1, inner)
        || weights.output.0 != inner + how.heads + 1
        || weights.output.1 == 0
    {
        bail!(
            "absorbed attention of {} heads: expected a query projection {:?} and an output projection [{}, outputs], found {:?} \
             and {:?}",
            how.heads,
            (width + 1, inner),
            inner + how.heads + 1,
            weights.query,
            weights.output
        );
    }
    let mut geometry = Geometry::new(&[batch, n, inner], tokens.dims(), tokens.dims(), how)?;
    geometry.append_sums = true;
    Ok(geometry)
}

struct AbsorbedAttention {
    geometry: Geometry,
    /// Width of the query inputs.
    width: usize,
    outputs: usize,
    mask: Option<Mask>,
    /// Whether a backward pass may follow.
    keep: bool,
    /// Values saved for the backward pass, per image.
    kept: Mutex<Vec<Kept>>,
}

/// Values of an image saved for the backward pass. Every input of a product ends in a 1, which
/// multiplies the bias.
struct Kept {
    input: Vec<f32>,   // [n, width + 1]
    queries: Vec<f32>, // [n, heads * token_width]
    softmax: Vec<f32>, // [n, heads, kept_width]
    read: Vec<f32>,    // [n, heads * token_width + heads + 1]
}

impl AbsorbedAttention {
    /// Returns both projections, stored row by row.
    fn projections<'a>(&self, weights: &'a [f32]) -> [Matrix<'a>; 2] {
        let g = self.geometry;
        let (query, output) = weights.split_at((self.width + 1) * g.query_row());
        [
            Matrix::new(query, self.width + 1, g.query_row()),
            Matrix::new(output, g.output_width(), self.outputs),
        ]
    }

    fn forward(&self, x: &[f32], tokens: &[f32], weights: &[f32]) -> (Vec<f32>, Vec<Kept>) {
        let g = self.geometry;
        let mut output = cpu::zeros(g.batch * g.queries * self.outputs);
        let kept = output
            .par_chunks_mut(g.queries * self.outputs)
            .zip(x.par_chunks(g.queries * self.width))
            .enumerate()
            .map(|(number, (output, x))| {
                let tokens = image_of(tokens, number, g.keys * g.key_row());
                self.forward_image(number, x, tokens, weights, output)
            })
            .collect::<Vec<_>>();
        (output, if self.keep { kept } else { Vec::new() })
    }

    fn forward_image(
        &self,
        number: usize,
        x: &[f32],
        tokens: &[f32],
        weights: &[f32],
        output: &mut [f32],
    ) -> Kept {
        let g = self.geometry;
        let [query, project] = self.projections(weights);
        let softmax_row = if self.keep {
            g.heads * g.kept_width()
        } else {
            0
        };
        let mut kept = Kept {
            input: with_ones(x, self.width),
            queries: vec![0f32; g.queries * g.query_row()],
            softmax: vec![0f32; g.queries * softmax_row],
            read: vec![0f32; g.queries * g.output_width()],
        };
        let source = Source {
            g,
            mask: self.mask,
            number,
            keys: tokens,
            values: tokens,
        };
        let blocks = g.queries.div_ceil(QUERY_BLOCK);
        output
            .par_chunks_mut(QUERY_BLOCK * self.outputs)
            .zip(kept.input.par_chunks(QUERY_BLOCK * (self.width + 1)))
            .zip(kept.queries.par_chunks_mut(QUERY_BLOCK * g.query_row()))
            .zip(kept.read.par_chunks_mut(QUERY_BLOCK * g.output_width()))
            .zip(blocks_mut(
                &mut kept.softmax,
                blocks,
                QUERY_BLOCK * softmax_row,
            ))
            .enumerate()
            .for_each(|(block, ((((output, input), queries), read), softmax))| {
                let rows =
                    |values, width| Matrix::new(values, input.len() / (self.width + 1), width);
                multiply(
                    rows(input, self.width + 1),
                    query,
                    1.0,
                    queries,
                    Parallelism::None,
                );
                source.read(block * QUERY_BLOCK, queries, read, softmax);
                multiply(
                    rows(read, g.output_width()),
                    project,
                    1.0,
                    output,
                    Parallelism::None,
                );
            });
        kept
    }

    /// Computes the gradients of `x`, `tokens` and the weights. In self-attention, the first holds
    /// the gradients of the first two.
    fn backward(
        &self,
        tokens: &[f32],
        weights: &[f32],
        grad: &[f32],
        are_tokens: bool,
    ) -> [Vec<f32>; 3] {
        let g = self.geometry;
        let all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // Every image multiplies by the transposes: computed once, they need no packing in each
        // product.
        let [query, project] = self.projections(weights);
        let [query_values, project_values] = [query, project].map(transposed);
        let query = Matrix::new(&query_values, query.columns, query.rows);
        let project = Matrix::new(&project_values, project.columns, project.rows);
        let mut dx = cpu::zeros(g.batch * g.queries * self.width);
        let mut dtokens = vec![
            0f32;
            if are_tokens {
                0
            } else {
                g.batch * g.keys * g.key_row()
            }
        ];
        let for_weights: Vec<ForWeights> = dx
            .par_chunks_mut(g.queries * self.width)
            .zip(blocks_mut(
                &mut dtokens,
                g.batch,
                if are_tokens { 0 } else { g.keys * g.key_row() },
            ))
            .zip(all.par_iter())
            .enumerate()
            .map(|(number, ((dx, dtokens), kept))| {
                let grad = image_of(grad, number, g.queries * self.outputs);
                let mut dread = vec![0f32; g.queries * g.output_width()];
                let rows_of_grad = Matrix::new(grad, g.queries, self.outputs);
                multiply(rows_of_grad, project, 1.0, &mut dread, Parallelism::None);
                let tokens = image_of(tokens, number, g.keys * g.key_row());
                let image = Image {
                    g,
                    mask: self.mask,
                    number,
                    kept: &kept.softmax,
                    inputs: Inputs {
                        queries: &kept.queries,
                        keys: tokens,
                        values: tokens,
                        output: &kept.read,
                        grad: &dread,
                    },
                };
                let mut dqueries = vec![0f32; g.queries * g.query_row()];
                image.differentiate(
                    &mut dqueries,
                    if are_tokens { &mut *dx } else { dtokens },
                    None,
                );
                let columns = Matrix {
                    columns: self.width, // the last belongs to the bias
                    ..query
                };
                let target = Target {
                    values: dx,
                    row_stride: self.width,
                };
                let rows = Matrix::new(&dqueries, g.queries, g.query_row());
                multiply_into(target, Sum::Add, rows, columns, 1.0, Parallelism::None);
                ForWeights {
                    input: transposed(Matrix::new(&kept.input, g.queries, self.width + 1)),
                    grad: transposed(rows_of_grad),
                    dqueries,
                }
            })
            .collect();
        let split = (self.width + 1) * g.query_row();
        let mut dweights = vec![0f32; split + g.output_width() * self.outputs];
        let (dquery, dproject) = dweights.split_at_mut(split);
        let rows = |values, width| Matrix::new(values, g.queries, width);
        let columns = |values, height| Matrix::new(values, height, g.queries);
        let pairs: Vec<_> = for_weights
            .iter()
            .map(|image| {
                (
                    columns(&image.input, self.width + 1),
                    rows(&image.dqueries, g.query_row()),
                )
            })
            .collect();
        weight_gradient(&pairs, dquery);
        let pairs: Vec<_> = for_weights
            .iter()
            .zip(all.iter())
            .map(|(image, kept)| {
                (
                    columns(&image.grad, self.outputs),
                    rows(&kept.read, g.output_width()),
                )
            })
            .collect();
        project_gradient(&pairs, self.outputs, dproject);
        [dx, dtokens, dweights]
    }
}

/// Adds `read^T grad` of all images to `sums`, from pairs of `grad^T` `[outputs, n]` and `read`
/// `[n, width]`. The smaller of the two is transposed, and so is the result of a task, a block of
/// rows of the sums.
fn project_gradient(pairs: &[(Matrix, Matrix)], outputs: usize, sums: &mut [f32]) {
    const ROWS: usize = 256;
    sums.par_chunks_mut(ROWS * outputs)
        .enumerate()
        .for_each(|(block, sums)| {
            let rows = sums.len() / outputs;
            let mut columns = vec![0f32; sums.len()];
            for (grad, read) in pairs {
                let read = part(read.values, read.rows, read.columns, block * ROWS, rows);
                let target = Target {
                    values: &mut columns,
                    row_stride: rows,
                };
                multiply_into(target, Sum::Add, *grad, read, 1.0, Parallelism::None);
            }
            transpose(Matrix::new(&columns, outputs, rows), sums);
        });
}

/// An image's contribution to the weight gradients, apart from its saved values; inputs and
/// gradients are transposed.
struct ForWeights {
    input: Vec<f32>,    // [width + 1, n]
    grad: Vec<f32>,     // [outputs, n]
    dqueries: Vec<f32>, // [n, heads * token_width]
}

/// Appends a 1 to every row of `width` values.
fn with_ones(x: &[f32], width: usize) -> Vec<f32> {
    let mut rows = Vec::with_capacity(x.len() / width * (width + 1));
    for row in x.chunks(width) {
        rows.extend_from_slice(row);
        rows.push(1.0);
    }
    rows
}

impl CustomOp3 for AbsorbedAttention {
    fn name(&self) -> &'static str {
        "absorbed-attention"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        tokens: &CpuStorage,
        tokens_layout: &Layout,
        weights: &CpuStorage,
        weights_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = cpu::values(self.name(), x, x_layout)?;
        let tokens = cpu::values(self.name(), tokens, tokens_layout)?;
        let weights = cpu::values(self.name(), weights, weights_layout)?;
        let (output, kept) = self.forward(x, tokens, weights);
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        let g = self.geometry;
        let shape = Shape::from((g.batch, g.queries, self.outputs));
        Ok((CpuStorage::F32(output), shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        tokens: &Tensor,
        weights: &Tensor,
        _output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let are_tokens = x.id() == tokens.id();
        let tensors = [tokens, weights, &grad.contiguous()?];
        let [dx, dtokens, dweights] =
            cpu::with_values(self.name(), tensors, |[tokens, weights, grad]| {
                self.backward(tokens, weights, grad, are_tokens)
            })?;
        let tensor =
            |values: Vec<f32>, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device());
        Ok((
            Some(tensor(dx, x)?),
            (!are_tokens).then(|| tensor(dtokens, tokens)).transpose()?,
            Some(tensor(dweights, weights)?),
        ))
    }
}
