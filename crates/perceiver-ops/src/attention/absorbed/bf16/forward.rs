//! The forward pass of absorbed attention in bf16: one task per block of an image's queries.

use half::bf16;
use rayon::prelude::*;

use super::softmax::{softmax, without_dropped};
use super::{AbsorbedBf16, Kept, LOGIT_ROWS};
use crate::attention::forward::QUERY_BLOCK;
use crate::cpu::gemm::{Sum, Target};
use crate::matmul::operand::Operand;
use crate::matmul::packed_matrix::PackedMatrix;
use crate::matmul::rounding::rounded;
use crate::matmul::unpacked::{Lhs, Product, RowMajor, multiply};

/// What all queries of an image read.
struct Tokens {
    /// `[m, token_width]`
    values: PackedMatrix,
    /// The transpose.
    keys: PackedMatrix,
}

impl AbsorbedBf16 {
    /// Computes the outputs of all images, and the values for the backward pass if they are kept.
    pub(super) fn forward(
        &self,
        x: &[bf16],
        tokens: &[bf16],
        weights: &[bf16],
    ) -> (Vec<bf16>, Vec<Kept>) {
        let g = self.geometry;
        let pack = || {
            let projections = self.projections(weights);
            projections.map(|matrix| PackedMatrix::in_parallel(matrix).with_even_rows())
        };
        let of_this_pass;
        let projections = if self.keep {
            of_this_pass = pack();
            &of_this_pass
        } else if let Some(packed) = self.packed.get() {
            packed
        } else {
            // Packed before the lock is taken: a thread that waits for the tasks of packing may take on
            // another pass with the same weights.
            let packed = pack();
            self.packed.get_or_init(|| packed)
        };
        let mut output = vec![bf16::ZERO; g.batch * g.queries * self.outputs];
        let kept: Vec<Kept> = output
            .par_chunks_mut(g.queries * self.outputs)
            .zip(x.par_chunks(g.queries * self.width))
            .zip(tokens.par_chunks(g.keys * g.key_row()))
            .enumerate()
            .map(|(number, ((output, x), tokens))| {
                self.forward_image(number, x, tokens, projections, output)
            })
            .collect();
        (output, if self.keep { kept } else { Vec::new() })
    }

    fn forward_image(
        &self,
        number: usize,
        x: &[bf16],
        tokens: &[bf16],
        projections: &[PackedMatrix; 2],
        output: &mut [bf16],
    ) -> Kept {
        let g = self.geometry;
        let matrix = Operand::from(RowMajor::new(tokens, g.keys, g.key_row()));
        let tokens = Tokens {
            values: PackedMatrix::new(matrix).with_even_rows(),
            keys: PackedMatrix::new(matrix.transposed()),
        };
        let strides = self.strides();
        let zeros = |row: usize| vec![bf16::ZERO; g.queries * row];
        let mut kept = Kept {
            input: with_ones(x, self.width, strides.input),
            queries: zeros(strides.queries),
            probabilities: zeros(strides.probabilities),
            read: zeros(strides.read),
        };
        output
            .par_chunks_mut(QUERY_BLOCK * self.outputs)
            .zip(kept.input.par_chunks(QUERY_BLOCK * strides.input))
            .zip(kept.queries.par_chunks_mut(QUERY_BLOCK * strides.queries))
            .zip(kept.read.par_chunks_mut(QUERY_BLOCK * strides.read))
            .zip(
                kept.probabilities
                    .par_chunks_mut(QUERY_BLOCK * strides.probabilities),
            )
            .enumerate()
            .for_each(
                |(block, ((((output, input), queries), read), probabilities))| {
                    let rows = input.len() / strides.input;
                    let of_rows = |values, stride, inner: usize| {
                        Lhs::Rows(RowMajor {
                            row_stride: stride,
                            ..RowMajor::new(values, rows, inner.next_multiple_of(2))
                        })
                    };
                    let [query, project] = projections;
                    let input = of_rows(input, strides.input, self.width + 1);
                    self.product(queries, strides.queries, input, query, 1.0);
                    let first = block * QUERY_BLOCK;
                    self.read(number, first, queries, &tokens, read, probabilities);
                    let read = of_rows(read, strides.read, g.output_width());
                    self.product(output, self.outputs, read, project, 1.0);
                },
            );
        kept
    }

    /// Computes a product rounded to bf16.
    pub(super) fn product(
        &self,
        values: &mut [bf16],
        row_stride: usize,
        lhs: Lhs,
        rhs: &PackedMatrix,
        scale: f32,
    ) {
        let product = Product::Bf16 { values, row_stride };
        multiply(self.kernel, product, lhs, rhs, scale, None);
    }

    /// Reads the tokens with the queries from `first` on, head by head.
    fn read(
        &self,
        number: usize,
        first: usize,
        queries: &[bf16],
        tokens: &Tokens,
        read: &mut [bf16],
        probabilities: &mut [bf16],
    ) {
        let g = self.geometry;
        let strides = self.strides();
        let (key_stride, row_stride) = (strides.keys, strides.probabilities);
        let rows = queries.len() / strides.queries;
        let queries = RowMajor {
            row_stride: strides.queries,
            ..RowMajor::new(queries, rows, g.query_row())
        };
        let mut logits = vec![0f32; LOGIT_ROWS.min(rows) * g.keys];
        let mut sums = [1f32; LOGIT_ROWS];
        let dropped = if self.mask.is_some() {
            logits.len() / g.keys * key_stride
        } else {
            0
        };
        let mut left = vec![bf16::ZERO; dropped];
        let factor = self.factor();
        for start in (0..rows).step_by(LOGIT_ROWS) {
            let count = LOGIT_ROWS.min(rows - start);
            let logits = &mut logits[..count * g.keys];
            for head in 0..g.heads {
                let target = Target {
                    values: &mut *logits,
                    row_stride: g.keys,
                };
                let queries = queries.rows(start, count).part(head * g.width, g.width);
                let product = Product::F32(target, Sum::Replace);
                multiply(
                    self.kernel,
                    product,
                    Lhs::Rows(queries),
                    &tokens.keys,
                    g.scale,
                    None,
                );

                let marked = &mut probabilities[start * row_stride + head * key_stride..];
                let row = (number * g.heads + head) * g.queries + first + start;
                softmax(
                    self.mask,
                    row,
                    logits,
                    &mut sums[..count],
                    marked,
                    row_stride,
                );
                let of_tokens = if self.mask.is_some() {
                    let left = &mut left[..count * key_stride];
                    without_dropped(marked, row_stride, left, key_stride, g.keys);
                    RowMajor::new(left, count, key_stride)
                } else {
                    RowMajor {
                        row_stride,
                        ..RowMajor::new(marked, count, key_stride)
                    }
                };
                let read = &mut read[start * strides.read..];
                let of_head = &mut read[head * g.value_width..];
                self.product(
                    of_head,
                    strides.read,
                    Lhs::Rows(of_tokens),
                    &tokens.values,
                    factor,
                );
                let column = g.heads * g.value_width + head;
                for (row, sum) in sums[..count].iter().enumerate() {
                    read[row * strides.read + column] = rounded(sum * factor);
                }
            }
        }
        for row in read.chunks_mut(strides.read) {
            row[g.heads * g.value_width + g.heads] = bf16::ONE;
        }
    }
}

/// Appends a 1 to every row of `width` values, and zeros up to `stride` values.
fn with_ones(x: &[bf16], width: usize, stride: usize) -> Vec<bf16> {
    let mut rows = Vec::with_capacity(x.len() / width * stride);
    for row in x.chunks(width) {
        rows.extend_from_slice(row);
        rows.push(bf16::ONE);
        rows.resize(rows.len().next_multiple_of(stride), bf16::ZERO);
    }
    rows
}
