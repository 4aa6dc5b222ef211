//! The gradients of both projections of absorbed attention on the CPU: sums over all images, a head
//! at a time.

use rayon::prelude::*;

use crate::attention::absorbed::pass::{AbsorbedAttention, Kept, rows_of_head};
use crate::cpu::gemm::{Matrix, Sum, Target};
use crate::cpu::transpose::transpose;
use crate::matmul::right::{Left, Right};

/// Most rows of the query projection's gradient per task.
const QUERY_ROWS: usize = 192;

/// Number of rows of the output projection's gradient per task.
const OUTPUT_ROWS: usize = 256;

/// An image's operands of the products, apart from its saved values.
pub(super) struct ForWeights<'a> {
    pub(super) input: Left<'a>,    // [width + 1, n]
    pub(super) grad: Left<'a>,     // [outputs, n]
    pub(super) dqueries: Vec<f32>, // [heads, n, token_width]
}

impl AbsorbedAttention {
    /// Computes the gradients of both projections, in the order of the weights. A task sums a part
    /// of them, image after image, so the order of the sum does not depend on threads.
    pub(super) fn weight_gradients(&self, images: &[ForWeights], kept: &[Kept]) -> Vec<f32> {
        let g = self.geometry;
        let split = (self.width + 1) * g.query_row();
        let mut gradients = vec![0f32; split + g.output_width() * self.outputs];
        let (query, output) = gradients.split_at_mut(split);
        rayon::join(
            || self.query_gradient(images, query),
            || self.output_gradient(images, kept, output),
        );
        gradients
    }

    /// Computes `input^T dqueries`, `[width + 1, heads * token_width]`.
    fn query_gradient(&self, images: &[ForWeights], gradient: &mut [f32]) {
        let g = self.geometry;
        let rows = self.width + 1;
        let task_rows = rows.div_ceil(rows.div_ceil(QUERY_ROWS));
        let starts = || (0..rows).step_by(task_rows);
        let tasks: Vec<_> = (0..g.heads)
            .flat_map(|head| starts().map(move |start| (head, start)))
            .collect();
        let sums: Vec<Vec<f32>> = tasks
            .par_iter()
            .map(|&(head, start)| {
                let rows = task_rows.min(rows - start);
                let mut sums = vec![0f32; rows * g.width];
                for image in images {
                    let input = image.input.matrix();
                    let input = Matrix {
                        values: &input.values[start * input.row_stride..],
                        rows,
                        ..input
                    };
                    let dqueries = rows_of_head(g, &image.dqueries, head);
                    self.add(&mut sums, input, dqueries);
                }
                sums
            })
            .collect();
        for (&(head, start), sums) in tasks.iter().zip(&sums) {
            let rows = gradient.chunks_mut(g.query_row()).skip(start);
            for (row, sums) in rows.zip(sums.chunks(g.width)) {
                row[head * g.width..][..g.width].copy_from_slice(sums);
            }
        }
    }

    /// Computes `read^T grad`, `[heads * token_width + heads + 1, outputs]`.
    fn output_gradient(&self, images: &[ForWeights], kept: &[Kept], gradient: &mut [f32]) {
        let g = self.geometry;
        let head_size = g.value_width * self.outputs;
        let (of_heads, of_sums) = gradient.split_at_mut(g.heads * head_size);
        of_heads
            .par_chunks_mut(head_size)
            .enumerate()
            .for_each(|(head, gradient)| {
                gradient
                    .par_chunks_mut(OUTPUT_ROWS * self.outputs)
                    .enumerate()
                    .for_each(|(block, gradient)| {
                        let columns = gradient.len() / self.outputs;
                        let read = kept.iter().map(|kept| Matrix {
                            values: &kept.read[head * g.queries * g.width + block * OUTPUT_ROWS..],
                            columns,
                            ..rows_of_head(g, &kept.read, head)
                        });
                        self.sum_transposed(images, read, gradient);
                    });
            });
        let sums = kept
            .iter()
            .map(|kept| Matrix::new(&kept.sums, g.queries, g.heads + 1));
        self.sum_transposed(images, sums, of_sums);
    }

    /// Computes the sum of `read^T grad` over all images. The smaller of the two, `grad`, is
    /// transposed, and so is the result.
    fn sum_transposed<'a>(
        &self,
        images: &[ForWeights],
        read: impl Iterator<Item = Matrix<'a>>,
        gradient: &mut [f32],
    ) {
        let mut columns = vec![0f32; gradient.len()];
        for (image, read) in images.iter().zip(read) {
            self.add(&mut columns, image.grad.matrix(), read);
        }
        let rows = gradient.len() / self.outputs;
        transpose(Matrix::new(&columns, self.outputs, rows), gradient);
    }

    /// Adds `lhs rhs` to sums of as many columns as `rhs` has.
    fn add(&self, sums: &mut [f32], lhs: Matrix, rhs: Matrix) {
        let target = Target {
            values: sums,
            row_stride: rhs.columns,
        };
        let rhs = Right::new(self.geometry.products, rhs);
        rhs.multiply(target, Sum::Add, lhs, 1.0);
    }
}
