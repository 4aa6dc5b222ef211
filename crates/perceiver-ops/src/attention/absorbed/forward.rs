//! The forward pass of absorbed attention on the CPU.
//!
//! One task is a block of an image's queries, head by head from the first projection to the last:
//! a head's queries and what they read stay in a core's cache.

use rayon::prelude::*;

use crate::attention::absorbed::pass::{AbsorbedAttention, Kept};
use crate::attention::forward::{QUERY_BLOCK, Reader, Source, blocks_mut, image_of};
use crate::attention::shape::part;
use crate::cpu;
use crate::cpu::gemm::{Matrix, Sum, Target};
use crate::matmul::right::Right;

/// The projections as right operands.
struct Projections<'a> {
    query: Vec<Right<'a>>,   // per head, [width + 1, token_width]
    project: Vec<Right<'a>>, // per head, [token_width, outputs]
    /// The output projection's rows for the sums of probabilities and for the bias,
    /// `[heads + 1, outputs]`.
    of_sums: Right<'a>,
}

impl AbsorbedAttention {
    /// Computes the outputs of all images, and the values for the backward pass if `keep` is set.
    pub(super) fn forward(
        &self,
        x: &[f32],
        tokens: &[f32],
        weights: &[f32],
    ) -> (Vec<f32>, Vec<Kept>) {
        let g = self.geometry;
        let projections = self.projections_by_head(weights);
        let mut output = cpu::zeros(g.batch * g.queries * self.outputs);
        let kept = output
            .par_chunks_mut(g.queries * self.outputs)
            .zip(x.par_chunks(g.queries * self.width))
            .enumerate()
            .map(|(number, (output, x))| {
                let tokens = image_of(tokens, number, g.keys * g.key_row());
                self.forward_image(number, x, tokens, &projections, output)
            })
            .collect::<Vec<_>>();
        (output, if self.keep { kept } else { Vec::new() })
    }

    fn projections_by_head<'a>(&self, weights: &'a [f32]) -> Projections<'a> {
        let g = self.geometry;
        let [query, project] = self.projections(weights);
        let right = |matrix| Right::new(g.products, matrix);
        let rows = |first: usize, count: usize| {
            right(Matrix::new(
                &project.values[first * self.outputs..],
                count,
                self.outputs,
            ))
        };
        let columns = |head: usize| {
            let column = head * g.width;
            right(part(
                query.values,
                query.rows,
                query.columns,
                column,
                g.width,
            ))
        };
        Projections {
            query: (0..g.heads).map(columns).collect(),
            project: (0..g.heads)
                .map(|head| rows(head * g.value_width, g.value_width))
                .collect(),
            of_sums: rows(g.heads * g.value_width, g.heads + 1),
        }
    }

    fn forward_image(
        &self,
        number: usize,
        x: &[f32],
        tokens: &[f32],
        projections: &Projections,
        output: &mut [f32],
    ) -> Kept {
        let g = self.geometry;
        let kept_rows = |width: usize| if self.keep { width } else { 0 };
        let [query_row, read_row, softmax_row] =
            [g.query_row(), g.output_width(), g.heads * g.kept_width()].map(kept_rows);
        let mut kept = Kept {
            input: with_ones(x, self.width),
            queries: vec![0f32; g.queries * query_row],
            softmax: vec![0f32; g.queries * softmax_row],
            read: vec![0f32; g.queries * read_row],
        };
        let source = Source {
            g,
            mask: self.mask,
            number,
            keys: tokens,
            values: tokens,
        };
        let tokens = source.tokens();
        let count = g.queries.div_ceil(QUERY_BLOCK);
        let blocks = |values, row: usize| blocks_mut(values, count, QUERY_BLOCK * row);
        output
            .par_chunks_mut(QUERY_BLOCK * self.outputs)
            .zip(kept.input.par_chunks(QUERY_BLOCK * (self.width + 1)))
            .zip(blocks(&mut kept.queries, query_row))
            .zip(blocks(&mut kept.read, read_row))
            .zip(blocks(&mut kept.softmax, softmax_row))
            .enumerate()
            .for_each(|(block, ((((output, input), queries), read), softmax))| {
                let rows = input.len() / (self.width + 1);
                let reader = Reader::new(&source, &tokens, block * QUERY_BLOCK, rows);
                let input = Matrix::new(input, rows, self.width + 1);
                let kept = [queries, read, softmax];
                self.forward_block(reader, input, projections, kept, output);
            });
        kept
    }

    /// Computes the outputs of a block of queries. The values for the backward pass are empty, or
    /// the block's rows of [`Kept`].
    fn forward_block(
        &self,
        mut reader: Reader,
        input: Matrix,
        projections: &Projections,
        [all_queries, all_read, softmax]: [&mut [f32]; 3],
        output: &mut [f32],
    ) {
        let g = self.geometry;
        let rows = input.rows;
        let of_head = |width: usize| vec![0f32; if self.keep { 0 } else { rows * width }];
        let (mut of_queries, mut of_read) = (of_head(g.width), of_head(g.value_width));
        let mut sums = vec![1f32; rows * (g.heads + 1)];
        for (head, (query, project)) in projections
            .query
            .iter()
            .zip(&projections.project)
            .enumerate()
        {
            let (queries, stride) = if self.keep {
                (&mut all_queries[head * g.width..], g.query_row())
            } else {
                (of_queries.as_mut_slice(), g.width)
            };
            query.multiply(target(queries, stride), Sum::Replace, input, 1.0);
            let queries = part(queries, rows, stride, 0, g.width);

            let (read, stride) = if self.keep {
                (&mut all_read[head * g.value_width..], g.output_width())
            } else {
                (of_read.as_mut_slice(), g.value_width)
            };
            reader.read(head, queries, target(read, stride), softmax);
            for (sums, sum) in sums.chunks_mut(g.heads + 1).zip(reader.sums()) {
                sums[head] = sum;
            }

            let sum = if head == 0 { Sum::Replace } else { Sum::Add };
            let read = part(read, rows, stride, 0, g.value_width);
            project.multiply(target(output, self.outputs), sum, read, 1.0);
        }
        if self.keep {
            let rows = all_read.chunks_mut(g.output_width());
            for (read, sums) in rows.zip(sums.chunks(g.heads + 1)) {
                read[g.heads * g.value_width..].copy_from_slice(sums);
            }
        }
        let sums = Matrix::new(&sums, rows, g.heads + 1);
        let output = target(output, self.outputs);
        projections.of_sums.multiply(output, Sum::Add, sums, 1.0);
    }
}

fn target(values: &mut [f32], row_stride: usize) -> Target<'_> {
    Target { values, row_stride }
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
