//! The forward pass of fused attention: one task per block of an image's queries, head by head.

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
    let kept_size = if keep {
        g.heads * g.queries * g.kept_width()
    } else {
        0
    };
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
            let tokens = source.tokens();
            let mut kept = vec![0f32; kept_size];
            output
                .par_chunks_mut(QUERY_BLOCK * g.output_width())
                .zip(queries.par_chunks(QUERY_BLOCK * g.query_row()))
                .zip(blocks_of_heads(&mut kept, g, g.kept_width()))
                .enumerate()
                .for_each(|(block, ((output, queries), mut kept))| {
                    let rows = queries.len() / g.query_row();
                    let mut reader = Reader::new(&source, &tokens, block * QUERY_BLOCK, rows);
                    for head in 0..g.heads {
                        let queries = part(queries, rows, g.query_row(), head * g.width, g.width);
                        let read = Target {
                            values: &mut output[head * g.value_width..],
                            row_stride: g.output_width(),
                        };
                        reader.read(head, queries, read, of_head(&mut kept, head));
                    }
                });
            kept
        })
        .collect();
    (output, kept)
}

/// Splits values `[heads, queries, width]` into blocks of queries, each with its rows of every head.
/// If there are no values, nor do the blocks have any.
pub(crate) fn blocks_of_heads(
    values: &mut [f32],
    g: Geometry,
    width: usize,
) -> Vec<Vec<&mut [f32]>> {
    let mut blocks = Vec::new();
    blocks.resize_with(g.queries.div_ceil(QUERY_BLOCK), Vec::new);
    for head in values.chunks_mut(g.queries * width) {
        for (block, rows) in blocks.iter_mut().zip(head.chunks_mut(QUERY_BLOCK * width)) {
            block.push(rows);
        }
    }
    blocks
}

/// Returns a head's rows of a block of [`blocks_of_heads`], if it has any.
pub(crate) fn of_head<'a>(block: &'a mut [&mut [f32]], head: usize) -> Option<&'a mut [f32]> {
    block.get_mut(head).map(|rows| &mut **rows)
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

/// Keys and values as right operands of the products of a head.
struct Tokens<'a> {
    /// The transpose.
    keys: Right<'a>,
    values: Right<'a>,
}

/// Keys and values that all heads share, a block of keys at a time; nothing if heads have their own.
pub(crate) struct SharedTokens<'a>(Vec<Tokens<'a>>);

impl<'a> Source<'a> {
    /// Returns the tokens that all heads of all blocks of queries share.
    pub(crate) fn tokens(&self) -> SharedTokens<'a> {
        SharedTokens(self.shared(|start| self.tokens_of(0, start)))
    }

    /// Returns the operands of every block of keys, from its `start`, if all heads share them; if
    /// heads have their own, nothing.
    pub(super) fn shared<T>(&self, operands: impl Fn(usize) -> T) -> Vec<T> {
        let are_shared = self.g.kv_heads < self.g.heads;
        let starts = (0..self.g.keys).step_by(KEY_BLOCK);
        starts.filter(|_| are_shared).map(operands).collect()
    }

    /// Returns a head's block of keys and values from `start` on.
    fn tokens_of(&self, head: usize, start: usize) -> Tokens<'a> {
        let g = self.g;
        let keys = self.keys_of(head, start);
        Tokens {
            keys: if g.kv_heads < g.heads {
                Right::transposed(g.products, keys)
            } else {
                Right::new(g.products, keys.transposed())
            },
            values: Right::new(g.products, self.values_of(head, start)),
        }
    }

    /// Returns a head's block of keys from `start` on.
    pub(super) fn keys_of(&self, head: usize, start: usize) -> Matrix<'a> {
        self.block_of(self.keys, head, start, self.g.width)
    }

    /// Returns a head's block of values from `start` on.
    pub(super) fn values_of(&self, head: usize, start: usize) -> Matrix<'a> {
        self.block_of(self.values, head, start, self.g.value_width)
    }

    /// Returns a head's rows of `[keys, kv_heads * width]` from `start` on, a block of them.
    fn block_of(&self, rows: &'a [f32], head: usize, start: usize, width: usize) -> Matrix<'a> {
        let g = self.g;
        let row = g.kv_heads * width;
        let count = KEY_BLOCK.min(g.keys - start);
        part(
            &rows[start * row..],
            count,
            row,
            g.kv_head(head) * width,
            width,
        )
    }
}

/// The running softmax of a query.
#[derive(Clone, Copy)]
struct Running {
    max: f32,
    sum: f32,
    /// The sum after dropout.
    left: f32,
}

impl Running {
    const START: Self = Self {
        max: f32::NEG_INFINITY,
        sum: 0.0,
        left: 0.0,
    };
}

/// A block of queries that reads the tokens of an image, head by head.
pub(crate) struct Reader<'a> {
    source: &'a Source<'a>,
    shared: &'a SharedTokens<'a>,
    /// Index of the block's first query.
    first: usize,
    /// Logits of the block's queries and one block of keys, unless they are kept.
    tile: Vec<f32>,
    /// Likewise, probabilities after dropout.
    left: Vec<f32>,
    running: Vec<Running>,
}

impl<'a> Reader<'a> {
    /// Creates a reader for `rows` queries from `first` on.
    pub(crate) fn new(
        source: &'a Source<'a>,
        shared: &'a SharedTokens<'a>,
        first: usize,
        rows: usize,
    ) -> Self {
        let len = rows * source.g.keys.min(KEY_BLOCK);
        Self {
            source,
            shared,
            first,
            tile: vec![0f32; len],
            left: vec![0f32; if source.mask.is_some() { len } else { 0 }],
            running: vec![Running::START; rows],
        }
    }

    /// Computes a head's attention output, and in `kept` its values for the backward pass,
    /// `[rows, kept_width]`.
    pub(crate) fn read(
        &mut self,
        head: usize,
        queries: Matrix,
        mut read: Target,
        mut kept: Option<&mut [f32]>,
    ) {
        let Source { g, mask, .. } = *self.source;
        let whole = g.keys <= KEY_BLOCK;
        self.running.fill(Running::START);
        for (number, start) in (0..g.keys).step_by(KEY_BLOCK).enumerate() {
            let count = KEY_BLOCK.min(g.keys - start);
            let own;
            let tokens = if let Some(shared) = self.shared.0.get(number) {
                shared
            } else {
                own = self.source.tokens_of(head, start);
                &own
            };
            let tile = match kept.as_deref_mut() {
                Some(kept) if whole => kept,
                _ => &mut self.tile[..queries.rows * count],
            };
            let logits = Target {
                values: &mut *tile,
                row_stride: count,
            };
            tokens.keys.multiply(logits, Sum::Replace, queries, g.scale);

            let row = (self.source.number * g.heads + head) * g.queries + self.first;
            let block = Block {
                mask,
                keys: g.keys,
                first_row: row,
                start,
                whole,
            };
            softmax(block, tile, &mut self.running, &mut read, g.value_width);
            let probabilities = if mask.is_some() {
                let left = &mut self.left[..queries.rows * count];
                without_dropped(tile, left);
                left
            } else {
                tile
            };
            let sum = if start == 0 { Sum::Replace } else { Sum::Add };
            let probabilities = Matrix::new(probabilities, queries.rows, count);
            tokens
                .values
                .multiply(read.reborrow(), sum, probabilities, 1.0);
        }
        finish(g, mask, &mut self.running, &mut read);
        if !whole && let Some(kept) = kept {
            for (kept, running) in kept.iter_mut().zip(&self.running) {
                *kept = running.max + running.sum.ln();
            }
        }
    }

    /// Returns the sum of each query's probabilities after dropout, of the head read last.
    pub(crate) fn sums(&self) -> impl Iterator<Item = f32> {
        self.running.iter().map(|running| running.left)
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

    /// Copies probabilities, with 0 for dropped ones.
    fn without_dropped(marked: &[f32], left: &mut [f32]) {
        for (left, marked) in left.iter_mut().zip(marked) {
            *left = dropout_mask::kept(*marked);
        }
    }

    /// Divides a head's output by the sums and the keep rate of dropout, and the sums after dropout
    /// likewise.
    fn finish(g: Geometry, mask: Option<Mask>, running: &mut [Running], read: &mut Target) {
        let whole = g.keys <= KEY_BLOCK;
        for (row, running) in read.values.chunks_mut(read.row_stride).zip(running) {
            let mut factor = if whole { 1.0 } else { running.sum.recip() };
            if let Some(mask) = mask {
                factor *= mask.factor;
            }
            simd::scale(&mut row[..g.value_width], factor);
            running.left = if mask.is_some() { running.left * factor } else { 1.0 };
        }
    }
}
