//! The forward pass of absorbed attention on the CPU.
//!
//! One task is a block of an image's queries, from the first projection to the last: queries and
//! attention outputs stay in a core's cache and never become tensors of the graph.

use rayon::prelude::*;

use crate::attention::absorbed::pass::{AbsorbedAttention, Kept};
use crate::attention::forward::{QUERY_BLOCK, Source, blocks_mut, image_of};
use crate::cpu;
use crate::cpu::gemm::Matrix;
use crate::matmul::right::Right;

impl AbsorbedAttention {
    /// Computes the outputs of all images, and the values for the backward pass if `keep` is set.
    pub(super) fn forward(
        &self,
        x: &[f32],
        tokens: &[f32],
        weights: &[f32],
    ) -> (Vec<f32>, Vec<Kept>) {
        let g = self.geometry;
        let projections = self
            .projections(weights)
            .map(|matrix| Right::new(g.products, matrix));
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
        [query, project]: &[Right; 2],
        output: &mut [f32],
    ) -> Kept {
        let g = self.geometry;
        let softmax_row = if self.keep {
            g.heads * g.kept_width()
        } else {
            0
        };
        let mut kept = Kept {
            input: with_ones(x, self.width),
            queries: vec![0f32; g.queries * g.query_row()],
            softmax: vec![0f32; g.queries * softmax_row],
            read: vec![0f32; g.queries * g.output_width()],
        };
        let source = Source {
            g,
            mask: self.mask,
            number,
            keys: tokens,
            values: tokens,
        };
        let blocks = g.queries.div_ceil(QUERY_BLOCK);
        output
            .par_chunks_mut(QUERY_BLOCK * self.outputs)
            .zip(kept.input.par_chunks(QUERY_BLOCK * (self.width + 1)))
            .zip(kept.queries.par_chunks_mut(QUERY_BLOCK * g.query_row()))
            .zip(kept.read.par_chunks_mut(QUERY_BLOCK * g.output_width()))
            .zip(blocks_mut(
                &mut kept.softmax,
                blocks,
                QUERY_BLOCK * softmax_row,
            ))
            .enumerate()
            .for_each(|(block, ((((output, input), queries), read), softmax))| {
                let rows =
                    |values, width| Matrix::new(values, input.len() / (self.width + 1), width);
                query.multiply_rows(rows(input, self.width + 1), None, queries);
                source.read(block * QUERY_BLOCK, queries, read, softmax);
                project.multiply_rows(rows(read, g.output_width()), None, output);
            });
        kept
    }
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
