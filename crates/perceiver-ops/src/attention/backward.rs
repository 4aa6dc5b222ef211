//! The backward pass of fused attention: one task per image, whose key and value gradients are sums
//! over all its queries and heads.

use rayon::prelude::*;

use super::KEY_BLOCK;
use super::dropout_mask::{self, Mask};
use super::forward::image_of;
use super::shape::{Geometry, part};
use crate::cpu;
use crate::cpu::gemm::{Matrix, Sum, Target};
use crate::cpu::simd::{self, vectorised};
use crate::matmul::right::Right;

/// The inputs and output of the forward pass, and the gradient of the output.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub(crate) queries: &'a [f32],
    pub(crate) keys: &'a [f32],
    pub(crate) values: &'a [f32],
    pub(crate) output: &'a [f32],
    pub(crate) grad: &'a [f32],
}

/// Computes the gradients of queries, keys and values.
pub(super) fn run(
    g: Geometry,
    mask: Option<Mask>,
    kept: &[Vec<f32>],
    inputs: Inputs,
) -> [Vec<f32>; 3] {
    let sizes = [
        g.queries * g.query_row(),
        g.keys * g.key_row(),
        g.keys * g.value_row(),
    ];
    let [mut dq, mut dk, mut dv] = sizes.map(|size| cpu::zeros(g.batch * size));
    dq.par_chunks_mut(sizes[0])
        .zip(dk.par_chunks_mut(sizes[1]).zip(dv.par_chunks_mut(sizes[2])))
        .zip(kept)
        .enumerate()
        .for_each(|(image, ((dq, (dk, dv)), kept))| {
            let output = g.queries * g.output_width();
            let of = |values, size| image_of(values, image, size);
            let inputs = Inputs {
                queries: of(inputs.queries, sizes[0]),
                keys: of(inputs.keys, sizes[1]),
                values: of(inputs.values, sizes[2]),
                output: of(inputs.output, output),
                grad: of(inputs.grad, output),
            };
            let image = Image {
                g,
                mask,
                number: image,
                kept,
                inputs,
            };
            image.differentiate(dq, dk, Some(dv));
        });
    [dq, dk, dv]
}

/// An image of the batch.
pub(crate) struct Image<'a> {
    pub(crate) g: Geometry,
    pub(crate) mask: Option<Mask>,
    /// Index of the image in the batch.
    pub(crate) number: usize,
    /// Values saved by the forward pass.
    pub(crate) kept: &'a [f32],
    pub(crate) inputs: Inputs<'a>,
}

impl Image<'_> {
    /// Adds the gradients to `dq`, `dk` and `dv`; if keys and values are the same tensor, without
    /// `dv`, to `dk`.
    pub(crate) fn differentiate(&self, dq: &mut [f32], dk: &mut [f32], mut dv: Option<&mut [f32]>) {
        let (g, inputs) = (self.g, self.inputs);
        let sums = output_products(g, inputs.grad, inputs.output);
        let block = g.keys.min(KEY_BLOCK);
        let [mut marked, mut tile, mut transposed] =
            [(); 3].map(|()| vec![0f32; g.queries * block]);
        for start in (0..g.keys).step_by(KEY_BLOCK) {
            let count = KEY_BLOCK.min(g.keys - start);
            let [marked, tile, transposed] = [&mut marked, &mut tile, &mut transposed]
                .map(|buffer| &mut buffer[..g.queries * count]);
            let mut tokens = self.tokens(0, start, count);
            for head in 0..g.heads {
                if head > 0 && g.kv_heads > 1 {
                    tokens = self.tokens(head, start, count);
                }
                let [queries, grad] = self.of_queries(head);

                // P, with the sign bit set for dropped entries.
                if g.keys <= KEY_BLOCK {
                    let rows = self
                        .kept
                        .chunks(g.heads * g.keys)
                        .zip(marked.chunks_mut(count));
                    rows.for_each(|(kept, marked)| {
                        marked.copy_from_slice(&kept[head * count..][..count]);
                    });
                } else {
                    let keys = self.keys(head, start, count).transposed();
                    let keys = Right::new(g.products, keys);
                    product(marked, queries, &keys, g.scale);
                    let first_row = (self.number * g.heads + head) * g.queries;
                    let log_sums = self.kept.iter().skip(head).step_by(g.heads);
                    let log_sums: Vec<f32> = log_sums.copied().collect();
                    probabilities(self.mask, g.keys, first_row, start, &log_sums, marked);
                }
                // dP before the dropout mask: dy v^T.
                product(tile, grad, &tokens.values, 1.0);
                let from_sums = g.heads * g.value_width + head;
                let rows = inputs.grad.chunks(g.output_width());
                let of_sums: Vec<f32> = rows
                    .map(|row| if g.append_sums { row[from_sums] } else { 0.0 })
                    .collect();
                let sums = &sums[head * g.queries..][..g.queries];
                logit_gradients(self.factor(), sums, &of_sums, marked, tile);

                let (keys_column, values_column) =
                    (g.kv_head(head) * g.width, g.kv_head(head) * g.value_width);
                let marked = Matrix::new(marked, g.queries, count);
                let probabilities = g.products.transposed_left(marked, transposed);
                let dv = dv.as_deref_mut().unwrap_or(&mut *dk);
                let dv = &mut dv[start * g.value_row() + values_column..];
                let grad = Right::new(g.products, grad);
                add(dv, g.value_row(), probabilities, &grad, self.factor());

                let tile = Matrix::new(tile, g.queries, count);
                let dq = &mut dq[head * g.width..];
                add(dq, g.query_row(), tile, &tokens.keys, g.scale);
                let dlogits = g.products.transposed_left(tile, transposed);
                let dk = &mut dk[start * g.key_row() + keys_column..];
                let queries = Right::new(g.products, queries);
                add(dk, g.key_row(), dlogits, &queries, g.scale);
            }
        }
    }

    /// Returns a head's `count` keys from `start` on.
    fn keys(&self, head: usize, start: usize, count: usize) -> Matrix<'_> {
        let g = self.g;
        let keys = &self.inputs.keys[start * g.key_row()..];
        part(keys, count, g.key_row(), g.kv_head(head) * g.width, g.width)
    }

    /// Returns a head's keys and values from `start` on as right operands.
    fn tokens(&self, head: usize, start: usize, count: usize) -> Tokens<'_> {
        let g = self.g;
        let values = &self.inputs.values[start * g.value_row()..];
        let column = g.kv_head(head) * g.value_width;
        let values = part(values, count, g.value_row(), column, g.value_width);
        Tokens {
            keys: Right::new(g.products, self.keys(head, start, count)),
            values: Right::transposed(g.products, values),
        }
    }

    /// Returns a head's queries and output gradients.
    fn of_queries(&self, head: usize) -> [Matrix<'_>; 2] {
        let (g, inputs) = (self.g, self.inputs);
        let (queries, grad) = (head * g.width, head * g.value_width);
        [
            part(inputs.queries, g.queries, g.query_row(), queries, g.width),
            part(
                inputs.grad,
                g.queries,
                g.output_width(),
                grad,
                g.value_width,
            ),
        ]
    }

    /// Returns the scale of kept values in dropout.
    fn factor(&self) -> f32 {
        self.mask.map_or(1.0, |mask| mask.factor)
    }
}

fn product(values: &mut [f32], lhs: Matrix, rhs: &Right, scale: f32) {
    let row_stride = values.len() / lhs.rows.max(1);
    let target = Target { values, row_stride };
    rhs.multiply(target, Sum::Replace, lhs, scale);
}

fn add(values: &mut [f32], row_stride: usize, lhs: Matrix, rhs: &Right, scale: f32) {
    let target = Target { values, row_stride };
    rhs.multiply(target, Sum::Add, lhs, scale);
}

/// Keys and values as right operands.
struct Tokens<'a> {
    keys: Right<'a>,
    /// The transpose.
    values: Right<'a>,
}

vectorised! {
    /// Computes `rows(dy * y)` for every head and query, `[heads, queries]`: the sum of `P * dP`
    /// along a row of probabilities.
    fn output_products(g: Geometry, grad: &[f32], output: &[f32]) -> Vec<f32> {
        let mut sums = vec![0f32; g.heads * g.queries];
        let rows = grad.chunks(g.output_width()).zip(output.chunks(g.output_width()));
        for (query, (grad, output)) in rows.enumerate() {
            for head in 0..g.heads {
                let columns = head * g.value_width..(head + 1) * g.value_width;
                let mut sum = simd::dot(&grad[columns.clone()], &output[columns]);
                if g.append_sums {
                    let column = g.heads * g.value_width + head;
                    sum += grad[column] * output[column];
                }
                sums[head * g.queries + query] = sum;
            }
        }
        sums
    }

    /// Turns a head's logits into probabilities, with dropped ones marked as in the forward pass.
    fn probabilities(mask: Option<Mask>, keys: usize, first_row: usize, start: usize, log_sums: &[f32], logits: &mut [f32]) {
        let count = logits.len() / log_sums.len();
        for (query, (row, log_sum)) in logits.chunks_mut(count).zip(log_sums).enumerate() {
            for value in row.iter_mut() {
                *value = simd::without_traces(simd::exp(*value - log_sum));
            }
            if let Some(mask) = mask {
                mask.mark(first_row + query, keys, start, row);
            }
        }
    }

    /// Turns the tile's `dy v^T` into the gradient of the logits, and the marked probabilities into
    /// those after dropout.
    fn logit_gradients(factor: f32, sums: &[f32], of_sums: &[f32], marked: &mut [f32], tile: &mut [f32]) {
        let count = tile.len() / sums.len();
        let rows = tile.chunks_mut(count).zip(marked.chunks_mut(count));
        for ((tile, marked), (sum, of_sum)) in rows.zip(sums.iter().zip(of_sums)) {
            for (gradient, marked) in tile.iter_mut().zip(marked) {
                let left = dropout_mask::kept(*marked);
                let probability = if *marked < 0.0 { -*marked } else { *marked };
                let of_logit = left * (factor * (*gradient + of_sum)) - probability * sum;
                *gradient = simd::without_traces(of_logit);
                *marked = left;
            }
        }
    }
}
