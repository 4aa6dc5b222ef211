//! The backward pass of absorbed attention on the CPU: one task per image, then the weight
//! gradients as products over all images.

use std::sync::PoisonError;

use gemm::Parallelism;
use rayon::prelude::*;

use crate::attention::absorbed::pass::AbsorbedAttention;
use crate::attention::backward::{Image, Inputs};
use crate::attention::forward::{blocks_mut, image_of};
use crate::attention::shape::part;
use crate::cpu;
use crate::cpu::gemm::{Matrix, Sum, Target, multiply_into};
use crate::cpu::transpose::transpose;
use crate::matmul::right::{Left, Products, Right};
use crate::nn::linear::weight_gradient;

impl AbsorbedAttention {
    /// Computes the gradients of `x`, `tokens` and the weights. In self-attention, the first holds
    /// the gradients of the first two.
    pub(super) fn backward(
        &self,
        tokens: &[f32],
        weights: &[f32],
        grad: &[f32],
        are_tokens: bool,
    ) -> [Vec<f32>; 3] {
        let g = self.geometry;
        let all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // Every image multiplies by the transposes: computed once, they need no packing in each
        // product.
        let [query, project] = self.projections(weights);
        let query = Matrix {
            rows: self.width, // the last row belongs to the bias
            ..query
        };
        let [query, project] = [query, project].map(|matrix| Right::transposed(g.products, matrix));
        let mut dx = cpu::zeros(g.batch * g.queries * self.width);
        let mut dtokens = vec![
            0f32;
            if are_tokens {
                0
            } else {
                g.batch * g.keys * g.key_row()
            }
        ];
        let for_weights: Vec<ForWeights> = dx
            .par_chunks_mut(g.queries * self.width)
            .zip(blocks_mut(
                &mut dtokens,
                g.batch,
                if are_tokens { 0 } else { g.keys * g.key_row() },
            ))
            .zip(all.par_iter())
            .enumerate()
            .map(|(number, ((dx, dtokens), kept))| {
                let grad = image_of(grad, number, g.queries * self.outputs);
                let mut dread = vec![0f32; g.queries * g.output_width()];
                let rows_of_grad = Matrix::new(grad, g.queries, self.outputs);
                project.multiply_rows(rows_of_grad, None, &mut dread);
                let tokens = image_of(tokens, number, g.keys * g.key_row());
                let image = Image {
                    g,
                    mask: self.mask,
                    number,
                    kept: &kept.softmax,
                    inputs: Inputs {
                        queries: &kept.queries,
                        keys: tokens,
                        values: tokens,
                        output: &kept.read,
                        grad: &dread,
                    },
                };
                let mut dqueries = vec![0f32; g.queries * g.query_row()];
                image.differentiate(
                    &mut dqueries,
                    if are_tokens { &mut *dx } else { dtokens },
                    None,
                );
                let target = Target {
                    values: dx,
                    row_stride: self.width,
                };
                let rows = Matrix::new(&dqueries, g.queries, g.query_row());
                query.multiply(target, Sum::Add, rows, 1.0);
                ForWeights {
                    input: Left::transposed(
                        g.products,
                        Matrix::new(&kept.input, g.queries, self.width + 1),
                    ),
                    grad: Left::transposed(g.products, rows_of_grad),
                    rows_of_grad,
                    dqueries,
                }
            })
            .collect();
        let split = (self.width + 1) * g.query_row();
        let mut dweights = vec![0f32; split + g.output_width() * self.outputs];
        let (dquery, dproject) = dweights.split_at_mut(split);
        let rows = |values, width| Matrix::new(values, g.queries, width);
        let pairs: Vec<_> = for_weights
            .iter()
            .map(|image| (image.input.matrix(), rows(&image.dqueries, g.query_row())))
            .collect();
        weight_gradient(g.products, &pairs, dquery);
        if g.products != Products::F32 {
            let pairs: Vec<_> = for_weights
                .iter()
                .zip(all.iter())
                .map(|(image, kept)| {
                    let read = rows(&kept.read, g.output_width());
                    (read.transposed(), image.rows_of_grad)
                })
                .collect();
            weight_gradient(g.products, &pairs, dproject);
            return [dx, dtokens, dweights];
        }
        let pairs: Vec<_> = for_weights
            .iter()
            .zip(all.iter())
            .map(|(image, kept)| (image.grad.matrix(), rows(&kept.read, g.output_width())))
            .collect();
        project_gradient(&pairs, self.outputs, dproject);
        [dx, dtokens, dweights]
    }
}

/// Adds `read^T grad` of all images to `sums`, from pairs of `grad^T` `[outputs, n]` and `read`
/// `[n, width]`. The smaller of the two is transposed, and so is the result of a task, a block of
/// rows of the sums.
fn project_gradient(pairs: &[(Matrix, Matrix)], outputs: usize, sums: &mut [f32]) {
    const ROWS: usize = 256;
    sums.par_chunks_mut(ROWS * outputs)
        .enumerate()
        .for_each(|(block, sums)| {
            let rows = sums.len() / outputs;
            let mut columns = vec![0f32; sums.len()];
            for (grad, read) in pairs {
                let read = part(read.values, read.rows, read.columns, block * ROWS, rows);
                let target = Target {
                    values: &mut columns,
                    row_stride: rows,
                };
                multiply_into(target, Sum::Add, *grad, read, 1.0, Parallelism::None);
            }
            transpose(Matrix::new(&columns, outputs, rows), sums);
        });
}

/// An image's contribution to the weight gradients, apart from its saved values.
struct ForWeights<'a> {
    input: Left<'a>,          // [width + 1, n]
    grad: Left<'a>,           // [outputs, n]
    rows_of_grad: Matrix<'a>, // [n, outputs]
    dqueries: Vec<f32>,       // [n, heads * token_width]
}
