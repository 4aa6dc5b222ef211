//! The backward pass: one task an image, whose key and value gradients are sums over all its queries and heads.

use gemm::Parallelism;
use rayon::prelude::*;

use super::KEY_BLOCK;
use super::forward::{image_of, transpose};
use super::mask::{self, Mask};
use super::shape::{Geometry, part};
use crate::gemm::{Matrix, Sum, Target, multiply, multiply_into};
use crate::simd;

/// What the forward pass saw and made, and the gradient of its output.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub(crate) queries: &'a [f32],
    pub(crate) keys: &'a [f32],
    pub(crate) values: &'a [f32],
    pub(crate) output: &'a [f32],
    pub(crate) grad: &'a [f32],
}

/// The gradients of queries, keys and values.
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
    let [mut dq, mut dk, mut dv] = sizes.map(|size| vec![0f32; g.batch * size]);
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

/// One image of the batch.
pub(crate) struct Image<'a> {
    pub(crate) g: Geometry,
    pub(crate) mask: Option<Mask>,
    /// The image's place in the batch.
    pub(crate) number: usize,
    /// What the forward pass kept.
    pub(crate) kept: &'a [f32],
    pub(crate) inputs: Inputs<'a>,
}

impl Image<'_> {
    /// Adds the gradients to `dq`, `dk` and `dv`; where keys and values are one and have no `dv`, to `dk`.
    pub(crate) fn differentiate(&self, dq: &mut [f32], dk: &mut [f32], mut dv: Option<&mut [f32]>) {
        let (g, inputs) = (self.g, self.inputs);
        let sums = simd::vectorised(|| self.output_products());
        let block = g.keys.min(KEY_BLOCK);
        let mut marked = vec![0f32; g.queries * block];
        let mut tile = vec![0f32; g.queries * block];
        let mut transposed = vec![0f32; g.value_width * block];
        let shared = g.kv_heads < g.heads;
        for start in (0..g.keys).step_by(KEY_BLOCK) {
            let count = KEY_BLOCK.min(g.keys - start);
            let (marked, tile) = (
                &mut marked[..g.queries * count],
                &mut tile[..g.queries * count],
            );
            for head in 0..g.heads {
                let (key_column, value_column) =
                    (g.kv_head(head) * g.width, g.kv_head(head) * g.value_width);
                let keys = part(
                    &inputs.keys[start * g.key_row()..],
                    count,
                    g.key_row(),
                    key_column,
                    g.width,
                );
                let values = part(
                    &inputs.values[start * g.value_row()..],
                    count,
                    g.value_row(),
                    value_column,
                    g.value_width,
                );
                let queries = part(
                    inputs.queries,
                    g.queries,
                    g.query_row(),
                    head * g.width,
                    g.width,
                );
                let grad = part(
                    inputs.grad,
                    g.queries,
                    g.output_width(),
                    head * g.value_width,
                    g.value_width,
                );
                let product = |target: &mut [f32], lhs, rhs, scale| {
                    multiply(lhs, rhs, scale, target, Parallelism::None);
                };

                // P, with a set sign bit where dropout took it.
                if g.keys <= KEY_BLOCK {
                    let rows = self
                        .kept
                        .chunks(g.heads * g.keys)
                        .zip(marked.chunks_mut(count));
                    rows.for_each(|(kept, marked)| {
                        marked.copy_from_slice(&kept[head * count..][..count])
                    });
                } else {
                    product(marked, queries, keys.transposed(), g.scale);
                    simd::vectorised(|| self.probabilities(head, start, marked));
                }
                // dP before dropout's mask: dy v^T
                if shared {
                    let transposed = &mut transposed[..g.value_width * count];
                    if head == 0 {
                        transpose(values, transposed);
                    }
                    product(
                        tile,
                        grad,
                        Matrix::new(transposed, g.value_width, count),
                        1.0,
                    );
                } else {
                    product(tile, grad, values.transposed(), 1.0);
                }
                let sums = &sums[head * g.queries..][..g.queries];
                simd::vectorised(|| self.logit_gradients(head, sums, marked, tile));

                let probabilities = Matrix::new(marked, g.queries, count);
                let dlogits = Matrix::new(tile, g.queries, count);
                let add = |values: &mut [f32], row_stride, lhs, rhs, scale| {
                    let target = Target { values, row_stride };
                    multiply_into(target, Sum::Add, lhs, rhs, scale, Parallelism::None);
                };
                let dv = dv.as_deref_mut().unwrap_or(&mut *dk);
                add(
                    &mut dv[start * g.value_row() + value_column..],
                    g.value_row(),
                    probabilities.transposed(),
                    grad,
                    self.factor(),
                );
                let dk = &mut dk[start * g.key_row() + key_column..];
                add(dk, g.key_row(), dlogits.transposed(), queries, g.scale);
                let dq = &mut dq[head * g.width..];
                add(dq, g.query_row(), dlogits, keys, g.scale);
            }
        }
    }

    /// What dropout multiplies the rest by.
    fn factor(&self) -> f32 {
        self.mask.map_or(1.0, |mask| mask.factor)
    }

    /// `rows(dy * y)` for every head and query, `[heads, queries]`: the sum of `P * dP` along a row of probabilities.
    #[inline(always)]
    fn output_products(&self) -> Vec<f32> {
        let g = self.g;
        let mut sums = vec![0f32; g.heads * g.queries];
        for query in 0..g.queries {
            let row = |values| image_of(values, query, g.output_width());
            let (grad, output) = (row(self.inputs.grad), row(self.inputs.output));
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

    /// Logits become probabilities, marked as the forward pass marked them.
    #[inline(always)]
    fn probabilities(&self, head: usize, start: usize, logits: &mut [f32]) {
        let g = self.g;
        let count = logits.len() / g.queries;
        for (query, row) in logits.chunks_mut(count).enumerate() {
            let log_sum = self.kept[query * g.heads + head];
            for value in row.iter_mut() {
                *value = simd::exp(*value - log_sum);
            }
            if let Some(mask) = self.mask {
                let row_number = (self.number * g.heads + head) * g.queries + query;
                mask.mark(row_number, g.keys, start, row);
            }
        }
    }

    /// The tile's `dy v^T` becomes the gradient of the logits, and the marked probabilities what dropout left of them.
    #[inline(always)]
    fn logit_gradients(&self, head: usize, sums: &[f32], marked: &mut [f32], tile: &mut [f32]) {
        let g = self.g;
        let count = tile.len() / g.queries;
        let factor = self.factor();
        let rows = tile.chunks_mut(count).zip(marked.chunks_mut(count));
        for (query, (tile, marked)) in rows.enumerate() {
            let from_sums = if g.append_sums {
                self.inputs.grad[query * g.output_width() + g.heads * g.value_width + head]
            } else {
                0.0
            };
            for (gradient, marked) in tile.iter_mut().zip(marked) {
                let left = mask::kept(*marked);
                let probability = if *marked < 0.0 { -*marked } else { *marked };
                *gradient = left * (factor * (*gradient + from_sums)) - probability * sums[query];
                *marked = left;
            }
        }
    }
}
