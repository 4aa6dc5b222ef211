//! The backward pass of absorbed attention on the CPU: one task per image, head by head, so that what
//! belongs to a head stays in a core's cache; then the weight gradients.

use std::sync::PoisonError;

use rayon::prelude::*;

use crate::attention::absorbed::pass::{AbsorbedAttention, Kept, Projections, rows_of_head};
use crate::attention::absorbed::weight_gradients::ForWeights;
use crate::attention::backward::{ImageGradient, OfHead, row_products};
use crate::attention::forward::{Source, image_of};
use crate::cpu;
use crate::cpu::gemm::{Matrix, Sum, Target};
use crate::matmul::right::{Left, Right};

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
        let transposes = self.transposes(weights);
        let mut dx = cpu::zeros(g.batch * g.queries * self.width);
        let token_values = if are_tokens { 0 } else { g.keys * g.key_row() };
        let mut dtokens = vec![0f32; g.batch * token_values];
        let mut of_images: Vec<Option<&mut [f32]>> =
            dtokens.chunks_mut(token_values.max(1)).map(Some).collect();
        of_images.resize_with(g.batch, || None);
        let for_weights: Vec<ForWeights> = dx
            .par_chunks_mut(g.queries * self.width)
            .zip(of_images)
            .zip(all.par_iter())
            .enumerate()
            .map(|(number, ((dx, dtokens), kept))| {
                let tokens = image_of(tokens, number, g.keys * g.key_row());
                let source = Source {
                    g,
                    mask: self.mask,
                    number,
                    keys: tokens,
                    values: tokens,
                };
                let grad = image_of(grad, number, g.queries * self.outputs);
                let grad = Matrix::new(grad, g.queries, self.outputs);
                let dqueries =
                    self.differentiate_image(source, grad, kept, &transposes, dx, dtokens);
                let input = Matrix::new(&kept.input, g.queries, self.width + 1);
                ForWeights {
                    input: Left::transposed(g.products, input),
                    grad: Left::transposed(g.products, grad),
                    dqueries,
                }
            })
            .collect();
        let dweights = self.weight_gradients(&for_weights, &all);
        [dx, dtokens, dweights]
    }

    /// Returns the transposes of both projections, without the bias of the queries: every image
    /// multiplies by them, and copies need no packing in each product.
    fn transposes<'a>(&self, weights: &'a [f32]) -> Projections<Right<'a>> {
        let mut projections = self.projections(weights);
        for query in &mut projections.query {
            query.rows = self.width;
        }
        projections.map(|matrix| Right::transposed(self.geometry.products, matrix))
    }

    /// Adds an image's gradients to `dx` and `dtokens`, or all to `dx` if there are no `dtokens`,
    /// and returns those of its queries, `[heads, n, token_width]`.
    fn differentiate_image(
        &self,
        source: Source,
        grad: Matrix,
        kept: &Kept,
        transposes: &Projections<Right>,
        dx: &mut [f32],
        mut dtokens: Option<&mut [f32]>,
    ) -> Vec<f32> {
        let g = self.geometry;
        let size = g.queries * g.width;
        let mut dsums = vec![0f32; g.queries * (g.heads + 1)];
        transposes.of_sums.multiply_rows(grad, None, &mut dsums);
        let mut dread = vec![0f32; size];
        let mut dqueries = vec![0f32; g.heads * size];
        let mut image = ImageGradient::new(source, &kept.softmax);
        let of_heads = dqueries
            .chunks_mut(size)
            .zip(transposes.query.iter().zip(&transposes.output));
        for (head, (dqueries, (query, project))) in of_heads.enumerate() {
            project.multiply_rows(grad, None, &mut dread);
            let grad = rows_of_head(g, &dread, 0);
            let of_sums = column(&dsums, g.heads + 1, head);
            let sums = column(&kept.sums, g.heads + 1, head);
            let mut products = row_products(grad, rows_of_head(g, &kept.read, head));
            for (product, (of_sum, sum)) in products.iter_mut().zip(of_sums.iter().zip(sums)) {
                *product += of_sum * sum;
            }
            let of_head = OfHead {
                queries: rows_of_head(g, &kept.queries, head),
                grad,
                products: &products,
                of_sums: &of_sums,
            };
            let target = Target {
                values: &mut *dqueries,
                row_stride: g.width,
            };
            let of_tokens = dtokens.as_deref_mut().unwrap_or(&mut *dx);
            image.differentiate(head, of_head, target, of_tokens, None);
            let target = Target {
                values: &mut *dx,
                row_stride: self.width,
            };
            let dqueries = rows_of_head(g, dqueries, 0);
            query.multiply(target, Sum::Add, dqueries, 1.0);
        }
        dqueries
    }
}

/// Returns a column of a row-major matrix.
fn column(values: &[f32], columns: usize, column: usize) -> Vec<f32> {
    values
        .iter()
        .skip(column)
        .step_by(columns)
        .copied()
        .collect()
}
