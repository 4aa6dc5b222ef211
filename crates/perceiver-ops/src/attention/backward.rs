//! The backward pass of fused attention: one task per image, head by head. Key and value gradients
//! are sums over all queries and heads.

use rayon::prelude::*;

use super::KEY_BLOCK;
use super::dropout_mask::{self, Mask};
use super::forward::{Source, image_of};
use super::shape::{Geometry, part};
use crate::cpu;
use crate::cpu::gemm::{Matrix, Sum, Target};
use crate::cpu::simd::{self, vectorised};
use crate::matmul::right::Right;

/// The inputs and output of the forward pass, and the gradient of the output.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) queries: &'a [f32],
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
    pub(super) output: &'a [f32],
    pub(super) grad: &'a [f32],
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
        .for_each(|(number, ((dq, (dk, dv)), kept))| {
            let output = g.queries * g.output_width();
            let of = |values, size| image_of(values, number, size);
            let source = Source {
                g,
                mask,
                number,
                keys: of(inputs.keys, sizes[1]),
                values: of(inputs.values, sizes[2]),
            };
            let queries = of(inputs.queries, sizes[0]);
            let [grad, output] = [inputs.grad, inputs.output].map(|values| of(values, output));
            let mut image = ImageGradient::new(source, kept);
            let of_sums = vec![0f32; g.queries];
            for head in 0..g.heads {
                let (column, width) = (head * g.value_width, g.value_width);
                let [grad, output] = [grad, output]
                    .map(|values| part(values, g.queries, g.output_width(), column, width));
                let of_head = OfHead {
                    queries: part(queries, g.queries, g.query_row(), head * g.width, g.width),
                    grad,
                    products: &row_products(grad, output),
                    of_sums: &of_sums,
                };
                let dq = Target {
                    values: &mut dq[head * g.width..],
                    row_stride: g.query_row(),
                };
                image.differentiate(head, of_head, dq, dk, Some(&mut *dv));
            }
        });
    [dq, dk, dv]
}

/// A head's queries, and what is known of the gradient of its output.
#[derive(Clone, Copy)]
pub(crate) struct OfHead<'a> {
    pub(crate) queries: Matrix<'a>,
    /// Gradient of the output, `dy`.
    pub(crate) grad: Matrix<'a>,
    /// For each query, the sum of `P * dP` along its row of probabilities: `rows(dy * y)`.
    pub(crate) products: &'a [f32],
    /// Gradient of the sum of each query's probabilities after dropout.
    pub(crate) of_sums: &'a [f32],
}

/// The backward pass of an image of the batch, head by head.
pub(crate) struct ImageGradient<'a> {
    source: Source<'a>,
    /// Values saved by the forward pass, `[heads, queries, kept_width]`.
    kept: &'a [f32],
    /// Keys and values that all heads share, a block of keys at a time; nothing if heads have their
    /// own.
    shared: Vec<Tokens<'a>>,
    // Of one head's queries and a block of keys: probabilities with the sign bit set for dropped ones,
    // unless they were saved; those after dropout; their gradients, then those of the logits; and a
    // transpose.
    marked: Vec<f32>,
    left: Vec<f32>,
    tile: Vec<f32>,
    transposed: Vec<f32>,
}

impl<'a> ImageGradient<'a> {
    pub(crate) fn new(source: Source<'a>, kept: &'a [f32]) -> Self {
        let g = source.g;
        let buffer = || vec![0f32; g.queries * g.keys.min(KEY_BLOCK)];
        let are_saved = g.keys <= KEY_BLOCK;
        Self {
            kept,
            shared: source.shared(|start| Tokens::new(&source, 0, start)),
            source,
            marked: if are_saved { Vec::new() } else { buffer() },
            left: buffer(),
            tile: buffer(),
            transposed: buffer(),
        }
    }

    /// Computes the gradient of a head's queries, `dq`, and adds those of keys and values to `dk`
    /// and `dv`; if they are the same tensor, without `dv`, to `dk`.
    pub(crate) fn differentiate(
        &mut self,
        head: usize,
        of: OfHead,
        mut dq: Target,
        dk: &mut [f32],
        mut dv: Option<&mut [f32]>,
    ) {
        let Source {
            g, mask, number, ..
        } = self.source;
        let factor = mask.map_or(1.0, |mask| mask.factor);
        let size = g.queries * g.kept_width();
        let kept = &self.kept[head * size..][..size];
        for (block, start) in (0..g.keys).step_by(KEY_BLOCK).enumerate() {
            let count = KEY_BLOCK.min(g.keys - start);
            let [left, tile, transposed] = [&mut self.left, &mut self.tile, &mut self.transposed]
                .map(|buffer| &mut buffer[..g.queries * count]);
            let own;
            let tokens = if let Some(shared) = self.shared.get(block) {
                shared
            } else {
                own = Tokens::new(&self.source, head, start);
                &own
            };

            // P, with the sign bit set for dropped entries.
            let marked = if g.keys <= KEY_BLOCK {
                kept
            } else {
                let marked = &mut self.marked[..g.queries * count];
                let keys = self.source.keys_of(head, start).transposed();
                product(marked, of.queries, &Right::new(g.products, keys), g.scale);
                let first_row = (number * g.heads + head) * g.queries;
                probabilities(mask, g.keys, first_row, start, kept, marked);
                marked
            };
            // dP before the dropout mask: dy v^T.
            product(tile, of.grad, &tokens.values, 1.0);
            logit_gradients(factor, of.products, of.of_sums, marked, left, tile);

            let (keys_column, values_column) =
                (g.kv_head(head) * g.width, g.kv_head(head) * g.value_width);
            let left = Matrix::new(left, g.queries, count);
            let probabilities = g.products.transposed_left(left, transposed);
            let dv = dv.as_deref_mut().unwrap_or(&mut *dk);
            let dv = &mut dv[start * g.value_row() + values_column..];
            let grad = Right::new(g.products, of.grad);
            add(dv, g.value_row(), probabilities, &grad, factor);

            let tile = Matrix::new(tile, g.queries, count);
            let sum = if start == 0 { Sum::Replace } else { Sum::Add };
            tokens.keys.multiply(dq.reborrow(), sum, tile, g.scale);
            let dlogits = g.products.transposed_left(tile, transposed);
            let dk = &mut dk[start * g.key_row() + keys_column..];
            let queries = Right::new(g.products, of.queries);
            add(dk, g.key_row(), dlogits, &queries, g.scale);
        }
    }
}

/// Keys and values as right operands.
struct Tokens<'a> {
    keys: Right<'a>,
    /// The transpose.
    values: Right<'a>,
}

impl<'a> Tokens<'a> {
    /// Returns a head's block of keys and values from `start` on.
    fn new(source: &Source<'a>, head: usize, start: usize) -> Self {
        let products = source.g.products;
        Self {
            keys: Right::new(products, source.keys_of(head, start)),
            values: Right::transposed(products, source.values_of(head, start)),
        }
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

vectorised! {
    /// Computes the dot product of every pair of rows.
    pub(crate) fn row_products(lhs: Matrix, rhs: Matrix) -> Vec<f32> {
        (0..lhs.rows).map(|row| simd::dot(lhs.row(row), rhs.row(row))).collect()
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

    /// Turns the tile's `dy v^T` into the gradient of the logits, and writes the probabilities after
    /// dropout.
    fn logit_gradients(factor: f32, sums: &[f32], of_sums: &[f32], marked: &[f32], left: &mut [f32], tile: &mut [f32]) {
        let count = tile.len() / sums.len();
        let rows = tile.chunks_mut(count).zip(left.chunks_mut(count).zip(marked.chunks(count)));
        for ((tile, (left, marked)), (sum, of_sum)) in rows.zip(sums.iter().zip(of_sums)) {
            for (gradient, (left, marked)) in tile.iter_mut().zip(left.iter_mut().zip(marked)) {
                *left = dropout_mask::kept(*marked);
                let probability = if *marked < 0.0 { -*marked } else { *marked };
                let of_logit = *left * (factor * (*gradient + of_sum)) - probability * sum;
                *gradient = simd::without_traces(of_logit);
            }
        }
    }
}
