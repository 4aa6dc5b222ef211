//! The forward pass of absorbed attention on the CPU.
//!
//! One task is a block of an image's queries, head by head from the first projection to the last:
//! a head's queries and what they read stay in a core's cache.

use rayon::prelude::*;

use crate::attention::absorbed::pass::{AbsorbedAttention, Kept, Projections};
use crate::attention::forward::{QUERY_BLOCK, Reader, Source, blocks_of_heads, image_of, of_head};
use crate::cpu;
use crate::cpu::gemm::{Matrix, Sum, Target};
use crate::matmul::right::Right;

/// A block of queries of [`Kept`]: the rows of every head, or nothing.
struct KeptBlock<'a> {
    queries: Vec<&'a mut [f32]>,
    read: Vec<&'a mut [f32]>,
    softmax: Vec<&'a mut [f32]>,
    sums: &'a mut [f32],
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
        let projections = self.projections(weights);
        let projections = projections.map(|matrix| Right::compact(g.products, matrix));
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

    fn forward_image(
        &self,
        number: usize,
        x: &[f32],
        tokens: &[f32],
        projections: &Projections<Right>,
        output: &mut [f32],
    ) -> Kept {
        let g = self.geometry;
        let of_heads = |width: usize| {
            let heads = if self.keep { g.heads } else { 0 };
            vec![0f32; heads * g.queries * width]
        };
        let mut kept = Kept {
            input: with_ones(x, self.width),
            queries: of_heads(g.width),
            softmax: of_heads(g.kept_width()),
            read: of_heads(g.value_width),
            sums: vec![1f32; g.queries * (g.heads + 1)],
        };
        let source = Source {
            g,
            mask: self.mask,
            number,
            keys: tokens,
            values: tokens,
        };
        let tokens = source.tokens();
        output
            .par_chunks_mut(QUERY_BLOCK * self.outputs)
            .zip(kept.input.par_chunks(QUERY_BLOCK * (self.width + 1)))
            .zip(blocks_of_heads(&mut kept.queries, g, g.width))
            .zip(blocks_of_heads(&mut kept.read, g, g.value_width))
            .zip(blocks_of_heads(&mut kept.softmax, g, g.kept_width()))
            .zip(kept.sums.par_chunks_mut(QUERY_BLOCK * (g.heads + 1)))
            .enumerate()
            .for_each(
                |(block, (((((output, input), queries), read), softmax), sums))| {
                    let rows = input.len() / (self.width + 1);
                    let reader = Reader::new(&source, &tokens, block * QUERY_BLOCK, rows);
                    let input = Matrix::new(input, rows, self.width + 1);
                    let kept = KeptBlock {
                        queries,
                        read,
                        softmax,
                        sums,
                    };
                    self.forward_block(reader, input, projections, kept, output);
                },
            );
        kept
    }

    /// Computes the outputs of a block of queries, and its values for the backward pass.
    fn forward_block(
        &self,
        mut reader: Reader,
        input: Matrix,
        projections: &Projections<Right>,
        mut kept: KeptBlock,
        output: &mut [f32],
    ) {
        let g = self.geometry;
        let rows = input.rows;
        let buffer = |width: usize| vec![0f32; if self.keep { 0 } else { rows * width }];
        let (mut of_queries, mut of_read) = (buffer(g.width), buffer(g.value_width));
        for (head, (query, project)) in projections
            .query
            .iter()
            .zip(&projections.output)
            .enumerate()
        {
            let queries = of_head(&mut kept.queries, head).unwrap_or(&mut of_queries);
            query.multiply(target(queries, g.width), Sum::Replace, input, 1.0);
            let queries = Matrix::new(queries, rows, g.width);

            let read = of_head(&mut kept.read, head).unwrap_or(&mut of_read);
            let softmax = of_head(&mut kept.softmax, head);
            reader.read(head, queries, target(read, g.value_width), softmax);
            for (sums, sum) in kept.sums.chunks_mut(g.heads + 1).zip(reader.sums()) {
                sums[head] = sum;
            }

            let sum = if head == 0 { Sum::Replace } else { Sum::Add };
            let read = Matrix::new(read, rows, g.value_width);
            project.multiply(target(output, self.outputs), sum, read, 1.0);
        }
        let sums = Matrix::new(kept.sums, rows, g.heads + 1);
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
