//! The forward pass of fused attention: one task per block of an image's queries.

use rayon::prelude::*;

use super::KEY_BLOCK;
use super::dropout_mask::{self, Mask};
use super::shape::{Geometry, part};
use crate::cpu;
use crate::cpu::gemm::{Matrix, Sum, Target};
use crate::cpu::simd::{self, vectorised};
use crate::matmul::right::Right;

/// Number of queries per task: enough to be worth the packing of a product, few enough that one
/// image keeps several cores busy.
pub(crate) const QUERY_BLOCK: usize = 128;

/// Computes the outputs of all images, and the values for the backward pass if `keep` is set.
pub(super) fn run(
    g: Geometry,
    mask: Option<Mask>,
    keep: bool,
    queries: &[f32],
    keys: &[f32],
    values: &[f32],
) -> (Vec<f32>, Vec<Vec<f32>>) {
    let mut output = cpu::zeros(g.batch * g.queries * g.output_width());
    let kept_row = if keep { g.heads * g.kept_width() } else { 0 };
    let kept = output
        .par_chunks_mut(g.queries * g.output_width())
        .zip(queries.par_chunks(g.queries * g.query_row()))
        .enumerate()
        .map(|(number, (output, queries))| {
            let source = Source {
                g,
                mask,
                number,
                keys: image_of(keys, number, g.keys * g.key_row()),
                values: image_of(values, number, g.keys * g.value_row()),
            };
            let mut kept = vec![0f32; g.queries * kept_row];
            output
                .par_chunks_mut(QUERY_BLOCK * g.output_width())
                .zip(queries.par_chunks(QUERY_BLOCK * g.query_row()))
                .zip(blocks_mut(
                    &mut kept,
                    g.queries.div_ceil(QUERY_BLOCK),
                    QUERY_BLOCK * kept_row,
                ))
                .enumerate()
                .for_each(|(block, ((output, queries), kept))| {
                    source.read(block * QUERY_BLOCK, queries, output, kept);
                });
            kept
        })
        .collect();
    (output, kept)
}

/// Splits values into `count` blocks of `size`, which may be 0.
pub(crate) fn blocks_mut(values: &mut [f32], count: usize, size: usize) -> Vec<&mut [f32]> {
    match size {
        0 => (0..count).map(|_| [].as_mut_slice()).collect(),
        _ => values.chunks_mut(size).collect(),
    }
}

/// Returns the values of one image.
pub(crate) fn image_of(values: &[f32], image: usize, size: usize) -> &[f32] {
    &values[image * size..][..size]
}

/// The keys and values of one image.
pub(crate) struct Source<'a> {
    pub(crate) g: Geometry,
    pub(crate) mask: Option<Mask>,
    /// Index of the image in the batch.
    pub(crate) number: usize,
    pub(crate) keys: &'a [f32],
    pub(crate) values: &'a [f32],
}

/// The running softmax of a query.
#[derive(Clone, Copy)]
struct Running {
    max: f32,
    sum: f32,
    /// The sum after dropout.
    left: f32,
}

impl Source<'_> {
    /// Computes attention for the queries from `first` on. `kept` is empty or receives the values
    /// for the backward pass.
    pub(crate) fn read(&self, first: usize, queries: &[f32], output: &mut [f32], kept: &mut [f32]) {
        let g = self.g;
        let rows = queries.len() / g.query_row();
        let mut running = vec![
            Running {
                max: f32::NEG_INFINITY,
                sum: 0.0,
                left: 0.0
            };
            g.heads * rows
        ];
        let mut tile = vec![0f32; rows * g.keys.min(KEY_BLOCK)];
        let whole = g.keys <= KEY_BLOCK;
        for start in (0..g.keys).step_by(KEY_BLOCK) {
            let count = KEY_BLOCK.min(g.keys - start);
            let tile = &mut tile[..rows * count];
            let keys = &self.keys[start * g.key_row()..];
            let values = &self.values[start * g.value_row()..];
            let operands = |head: usize| {
                let (width, value_width) = (g.width, g.value_width);
                let keys = part(keys, count, g.key_row(), g.kv_head(head) * width, width);
                let column = g.kv_head(head) * value_width;
                let values = part(values, count, g.value_row(), column, value_width);
                let keys = if g.kv_heads < g.heads {
                    Right::transposed(g.products, keys) // for all heads
                } else {
                    Right::new(g.products, keys.transposed())
                };
                [keys, Right::new(g.products, values)]
            };
            let mut of_head = operands(0);
            for head in 0..g.heads {
                if head > 0 && g.kv_heads > 1 {
                    of_head = operands(head);
                }
                let [keys, values] = &of_head;
                let queries = part(queries, rows, g.query_row(), head * g.width, g.width);
                let logits = Target {
                    values: &mut *tile,
                    row_stride: count,
                };
                keys.multiply(logits, Sum::Replace, queries, g.scale);

                let running = &mut running[head * rows..][..rows];
                let row = (self.number * g.heads + head) * g.queries + first;
                let mut read = Target {
                    values: &mut output[head * g.value_width..],
                    row_stride: g.output_width(),
                };
                let block = Block {
                    mask: self.mask,
                    keys: g.keys,
                    first_row: row,
                    start,
                    whole,
                };
                softmax(block, tile, running, &mut read, g.value_width);
                if whole && !kept.is_empty() {
                    let rows = kept.chunks_mut(g.heads * count).zip(tile.chunks(count));
                    rows.for_each(|(kept, tile)| {
                        kept[head * count..][..count].copy_from_slice(tile);
                    });
                }
                if self.mask.is_some() {
                    drop_marked(tile);
                }
                let sum = if start == 0 { Sum::Replace } else { Sum::Add };
                values.multiply(read, sum, Matrix::new(tile, rows, count), 1.0);
            }
        }
        finish(g, self.mask, &running, output);
        if !whole {
            for (index, log_sum) in kept.iter_mut().enumerate() {
                let running = running[index % g.heads * rows + index / g.heads];
                *log_sum = running.max + running.sum.ln();
            }
        }
    }
}

/// The position of a tile of logits.
#[derive(Clone, Copy)]
struct Block {
    mask: Option<Mask>,
    keys: usize,
    /// Index of the tile's first row among all rows of logits of the batch.
    first_row: usize,
    /// Index of the tile's first key.
    start: usize,
    /// Whether the tile has all keys.
    whole: bool,
}

vectorised! {
    /// Turns the tile's logits into exponentials, with the sign bit set for dropped ones, and
    /// rescales the earlier output to the new maximum. If the tile has the whole row, the results
    /// are the probabilities.
    fn softmax(block: Block, tile: &mut [f32], running: &mut [Running], read: &mut Target, value_width: usize) {
        let count = tile.len() / running.len();
        for (index, (logits, running)) in tile.chunks_mut(count).zip(running).enumerate() {
            let max = running.max.max(simd::max(logits));
            for logit in logits.iter_mut() {
                *logit = simd::without_traces(simd::exp(*logit - max));
            }
            let sum = simd::sum(logits);
            if block.start > 0 && max > running.max {
                let factor = simd::exp(running.max - max);
                running.sum *= factor;
                running.left *= factor;
                let row = &mut read.values[index * read.row_stride..][..value_width];
                simd::scale(row, factor);
            }
            running.max = max;
            running.sum += sum;
            if block.whole {
                simd::scale(logits, sum.recip());
            }
            match block.mask {
                None => running.left = running.sum,
                Some(mask) => {
                    mask.mark(block.first_row + index, block.keys, block.start, logits);
                    running.left += simd::sum_of(logits, dropout_mask::kept);
                }
            }
        }
    }

    fn drop_marked(tile: &mut [f32]) {
        for probability in tile {
            *probability = dropout_mask::kept(*probability);
        }
    }

    /// Divides the output by the sums and the keep rate of dropout, and appends the sums after
    /// dropout.
    fn finish(g: Geometry, mask: Option<Mask>, running: &[Running], output: &mut [f32]) {
        let rows = running.len() / g.heads;
        for (index, row) in output.chunks_mut(g.output_width()).enumerate() {
            let (read, sums) = row.split_at_mut(g.heads * g.value_width);
            for (head, read) in read.chunks_mut(g.value_width).enumerate() {
                let running = running[head * rows + index];
                let mut factor = if g.keys <= KEY_BLOCK { 1.0 } else { running.sum.recip() };
                if let Some(mask) = mask {
                    factor *= mask.factor;
                }
                simd::scale(read, factor);
                if g.append_sums {
                    sums[head] = if mask.is_some() { running.left * factor } else { 1.0 };
                }
            }
            if g.append_sums {
                sums[g.heads] = 1.0;
            }
        }
    }
}
