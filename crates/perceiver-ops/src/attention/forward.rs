//! The forward pass: one task a block of an image's queries.

use gemm::Parallelism;
use rayon::prelude::*;

use super::KEY_BLOCK;
use super::mask::{self, Mask};
use super::shape::{Geometry, part};
use crate::gemm::{Matrix, Sum, Target, multiply, multiply_into};
use crate::simd;

/// Queries of a task: enough to make a product worth its packing, few enough that one image keeps several cores busy.
pub(crate) const QUERY_BLOCK: usize = 128;

/// The outputs of all images, and what backward needs of each when `keep` is set.
pub(super) fn run(
    g: Geometry,
    mask: Option<Mask>,
    keep: bool,
    queries: &[f32],
    keys: &[f32],
    values: &[f32],
) -> (Vec<f32>, Vec<Vec<f32>>) {
    let mut output = vec![0f32; g.batch * g.queries * g.output_width()];
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

/// `count` blocks of `size` values, which may be 0.
pub(crate) fn blocks_mut(values: &mut [f32], count: usize, size: usize) -> Vec<&mut [f32]> {
    match size {
        0 => (0..count).map(|_| [].as_mut_slice()).collect(),
        _ => values.chunks_mut(size).collect(),
    }
}

/// The values of one image of many.
pub(crate) fn image_of(values: &[f32], image: usize, size: usize) -> &[f32] {
    &values[image * size..][..size]
}

/// Keys and values of one image.
pub(crate) struct Source<'a> {
    pub(crate) g: Geometry,
    pub(crate) mask: Option<Mask>,
    /// The image's place in the batch.
    pub(crate) number: usize,
    pub(crate) keys: &'a [f32],
    pub(crate) values: &'a [f32],
}

/// A query's softmax so far.
#[derive(Clone, Copy)]
struct Running {
    max: f32,
    sum: f32,
    /// The sum of what dropout left.
    left: f32,
}

impl Source<'_> {
    /// Reads for the queries from `first` on. `kept` is empty, or takes what backward needs of these queries.
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
        let mut transposed = vec![0f32; g.width * g.keys.min(KEY_BLOCK)];
        let whole = g.keys <= KEY_BLOCK;
        for start in (0..g.keys).step_by(KEY_BLOCK) {
            let count = KEY_BLOCK.min(g.keys - start);
            let tile = &mut tile[..rows * count];
            let keys = &self.keys[start * g.key_row()..];
            let values = &self.values[start * g.value_row()..];
            for head in 0..g.heads {
                let keys = part(keys, count, g.key_row(), g.kv_head(head) * g.width, g.width);
                let keys = if g.kv_heads < g.heads {
                    // Every head reads these: transposed once, they need no packing in each product.
                    let transposed = &mut transposed[..g.width * count];
                    if head == 0 {
                        transpose(keys, transposed);
                    }
                    Matrix::new(transposed, g.width, count)
                } else {
                    keys.transposed()
                };
                let queries = part(queries, rows, g.query_row(), head * g.width, g.width);
                multiply(queries, keys, g.scale, tile, Parallelism::None);

                let running = &mut running[head * rows..][..rows];
                let row = (self.number * g.heads + head) * g.queries + first;
                let mut read = Target {
                    values: &mut output[head * g.value_width..],
                    row_stride: g.output_width(),
                };
                simd::vectorised(|| self.softmax(row, start, tile, running, &mut read, whole));
                if whole && !kept.is_empty() {
                    let rows = kept.chunks_mut(g.heads * count).zip(tile.chunks(count));
                    rows.for_each(|(kept, tile)| {
                        kept[head * count..][..count].copy_from_slice(tile)
                    });
                }
                if self.mask.is_some() {
                    simd::vectorised(|| tile.iter_mut().for_each(|p| *p = mask::kept(*p)));
                }
                let values = part(
                    values,
                    count,
                    g.value_row(),
                    g.kv_head(head) * g.value_width,
                    g.value_width,
                );
                let sum = if start == 0 { Sum::Replace } else { Sum::Add };
                multiply_into(
                    read,
                    sum,
                    Matrix::new(tile, rows, count),
                    values,
                    1.0,
                    Parallelism::None,
                );
            }
        }
        simd::vectorised(|| self.finish(&running, output, whole));
        if !whole {
            for (index, log_sum) in kept.iter_mut().enumerate() {
                let running = running[index % g.heads * rows + index / g.heads];
                *log_sum = running.max + running.sum.ln();
            }
        }
    }

    /// Turns the tile's logits into exponentials, with a set sign bit where dropout takes them, and brings what was read
    /// before to the new maximum. Where the tile is the whole row, the result are the probabilities.
    #[inline(always)]
    fn softmax(
        &self,
        first_row: usize,
        start: usize,
        tile: &mut [f32],
        running: &mut [Running],
        read: &mut Target,
        whole: bool,
    ) {
        let count = tile.len() / running.len();
        for (index, (logits, running)) in tile.chunks_mut(count).zip(running).enumerate() {
            let max = running.max.max(simd::max(logits));
            for logit in logits.iter_mut() {
                *logit = simd::exp(*logit - max);
            }
            let sum = simd::sum(logits);
            if start > 0 && max > running.max {
                let factor = simd::exp(running.max - max);
                running.sum *= factor;
                running.left *= factor;
                let row = &mut read.values[index * read.row_stride..][..self.g.value_width];
                simd::scale(row, factor);
            }
            running.max = max;
            running.sum += sum;
            if whole {
                let factor = sum.recip();
                simd::scale(logits, factor);
            }
            match self.mask {
                None => running.left = running.sum,
                Some(mask) => {
                    mask.mark(first_row + index, self.g.keys, start, logits);
                    running.left += simd::sum_of(logits, mask::kept);
                }
            }
        }
    }

    /// Divides what was read by the sums and dropout's rate, and appends what dropout left.
    #[inline(always)]
    fn finish(&self, running: &[Running], output: &mut [f32], whole: bool) {
        let g = self.g;
        let rows = running.len() / g.heads;
        for (index, row) in output.chunks_mut(g.output_width()).enumerate() {
            let (read, sums) = row.split_at_mut(g.heads * g.value_width);
            for (head, read) in read.chunks_mut(g.value_width).enumerate() {
                let running = running[head * rows + index];
                let mut factor = if whole { 1.0 } else { running.sum.recip() };
                if let Some(mask) = self.mask {
                    factor *= mask.factor;
                }
                simd::scale(read, factor);
                if g.append_sums {
                    sums[head] = match self.mask {
                        None => 1.0,
                        Some(_) => running.left * factor,
                    };
                }
            }
            if g.append_sums {
                sums[g.heads] = 1.0;
            }
        }
    }
}

/// Writes the transpose of `matrix` row by row, in squares that fit the nearest cache.
pub(crate) fn transpose(matrix: Matrix, output: &mut [f32]) {
    const SQUARE: usize = 16;
    for first_row in (0..matrix.rows).step_by(SQUARE) {
        for first_column in (0..matrix.columns).step_by(SQUARE) {
            for column in first_column..(first_column + SQUARE).min(matrix.columns) {
                for row in first_row..(first_row + SQUARE).min(matrix.rows) {
                    output[column * matrix.rows + row] =
                        matrix.values[row * matrix.row_stride + column * matrix.column_stride];
                }
            }
        }
    }
}
