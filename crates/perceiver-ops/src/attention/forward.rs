//! The forward pass: one task a block of an image's queries.

use gemm::Parallelism;
use rayon::prelude::*;

use super::mask::{self, Mask};
use super::shape::{Geometry, part};
use super::{KEY_BLOCK, Kept};
use crate::gemm::{Matrix, Sum, Target, multiply, multiply_into};
use crate::simd;

/// Queries of a task: enough to make a product worth its packing, few enough that one image keeps several cores busy.
const QUERY_BLOCK: usize = 128;

/// The outputs of all images, and what backward needs of each when `keep` is set.
pub(super) fn run(
    g: Geometry,
    mask: Option<Mask>,
    keep: bool,
    queries: &[f32],
    keys: &[f32],
    values: &[f32],
) -> (Vec<f32>, Vec<Kept>) {
    let mut output = vec![0f32; g.batch * g.queries * g.output_width()];
    let kept = output
        .par_chunks_mut(g.queries * g.output_width())
        .enumerate()
        .map(|(image, output)| {
            let queries =
                &queries[image * g.queries * g.query_row()..][..g.queries * g.query_row()];
            let source = Source {
                g,
                mask,
                image,
                keys: &keys[image * g.keys * g.key_row()..][..g.keys * g.key_row()],
                values: &values[image * g.keys * g.value_row()..][..g.keys * g.value_row()],
            };
            let blocks: Vec<Left> = output
                .par_chunks_mut(QUERY_BLOCK * g.output_width())
                .zip(queries.par_chunks(QUERY_BLOCK * g.query_row()))
                .enumerate()
                .map(|(block, (output, queries))| {
                    source.read(block * QUERY_BLOCK, queries, output, keep)
                })
                .collect();
            keep.then(|| join(g, blocks))
        })
        .collect::<Vec<_>>();
    (output, kept.into_iter().flatten().collect())
}

/// What a block of queries leaves for backward, `[heads, block, keys]` or `[heads, block]`.
struct Left {
    values: Vec<f32>,
    rows: usize,
}

/// The blocks of an image put together.
fn join(g: Geometry, blocks: Vec<Left>) -> Kept {
    let width = if g.keys <= KEY_BLOCK { g.keys } else { 1 };
    let mut joined = Vec::with_capacity(g.heads * g.queries * width);
    if blocks.len() == 1 {
        joined = blocks.into_iter().flat_map(|block| block.values).collect();
    } else {
        for head in 0..g.heads {
            for block in &blocks {
                let size = block.rows * width;
                joined.extend_from_slice(&block.values[head * size..][..size]);
            }
        }
    }
    if g.keys <= KEY_BLOCK {
        Kept::Probabilities(joined)
    } else {
        Kept::LogSums(joined)
    }
}

/// Keys and values of one image.
struct Source<'a> {
    g: Geometry,
    mask: Option<Mask>,
    image: usize,
    keys: &'a [f32],
    values: &'a [f32],
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
    /// Reads for the queries from `first` on.
    fn read(&self, first: usize, queries: &[f32], output: &mut [f32], keep: bool) -> Left {
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
        let mut kept = Vec::with_capacity(if keep && whole {
            g.heads * rows * g.keys
        } else {
            0
        });
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
                let row = (self.image * g.heads + head) * g.queries + first;
                let mut read = Target {
                    values: &mut output[head * g.value_width..],
                    row_stride: g.output_width(),
                };
                simd::vectorised(|| self.softmax(row, start, tile, running, &mut read, whole));
                if keep && whole {
                    kept.extend_from_slice(tile);
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
        if keep && !whole {
            kept = running.iter().map(|row| row.max + row.sum.ln()).collect();
        }
        Left { values: kept, rows }
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
        }
    }
}

/// Writes the transpose of `matrix` row by row, in squares that fit the nearest cache.
pub(super) fn transpose(matrix: Matrix, output: &mut [f32]) {
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
