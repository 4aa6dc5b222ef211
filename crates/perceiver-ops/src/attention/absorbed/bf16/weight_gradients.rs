//! The gradients of both projections of absorbed attention in bf16: sums over all images.

use half::bf16;
use rayon::prelude::*;

use super::{AbsorbedBf16, Kept};
use crate::cpu::gemm::{Sum, Target};
use crate::half_precision::narrow;
use crate::matmul::kernel::Bf16Kernel;
use crate::matmul::operand::Operand;
use crate::matmul::packed_matrix::PackedMatrix;
use crate::matmul::transposed::Transposed;
use crate::matmul::unpacked::{Product, RowMajor, multiply};

/// Number of columns of the queries, or rows of the output projection, per task.
const TASK: usize = 128;

/// An image's operands of the products, apart from its saved values.
pub(super) struct ForWeights {
    input: Transposed,   // of [n, width + 1]
    grad: PackedMatrix,  // [n, outputs]
    dqueries: Vec<bf16>, // [n, heads * token_width]
}

impl ForWeights {
    pub(super) fn new(
        kernel: Bf16Kernel,
        input: RowMajor,
        grad: RowMajor,
        dqueries: Vec<bf16>,
    ) -> Self {
        Self {
            input: Transposed::of(kernel, input),
            grad: PackedMatrix::new(Operand::from(grad)),
            dqueries,
        }
    }
}

impl AbsorbedBf16 {
    /// Computes the gradients of both projections, in the order of the weights. A task sums a part
    /// of them, image after image, so the order of the sum does not depend on threads.
    pub(super) fn weight_gradients(&self, images: &[ForWeights], kept: &[Kept]) -> Vec<bf16> {
        let g = self.geometry;
        let strides = self.strides();
        let (queries, read) = (g.query_row(), g.output_width());
        let parts = |count: usize| (0..count).step_by(TASK).collect::<Vec<_>>();
        let of_query: Vec<Vec<f32>> = parts(queries)
            .into_par_iter()
            .map(|start| {
                let width = TASK.min(queries - start);
                let mut sums = vec![0f32; (self.width + 1) * width];
                let mut packed = PackedMatrix::default();
                for image in images {
                    let dqueries = RowMajor {
                        row_stride: strides.queries,
                        ..RowMajor::new(&image.dqueries, g.queries, queries)
                    };
                    packed.pack(Operand::from(dqueries.part(start, width)));
                    self.add(&mut sums, width, &image.input, &packed);
                }
                sums
            })
            .collect();
        let of_output: Vec<Vec<f32>> = parts(read)
            .into_par_iter()
            .map(|start| {
                let rows = TASK.min(read - start);
                let mut sums = vec![0f32; rows * self.outputs];
                let mut transposed = Transposed::new(self.kernel);
                for (image, kept) in images.iter().zip(kept) {
                    let read = RowMajor {
                        row_stride: strides.read,
                        ..RowMajor::new(&kept.read, g.queries, read)
                    };
                    transposed.pack(read.part(start, rows));
                    self.add(&mut sums, self.outputs, &transposed, &image.grad);
                }
                sums
            })
            .collect();
        let mut gradients = vec![bf16::ZERO; (self.width + 1) * queries + read * self.outputs];
        let (query, output) = gradients.split_at_mut((self.width + 1) * queries);
        for (row, gradients) in query.chunks_mut(queries).enumerate() {
            for (part, gradients) in of_query.iter().zip(gradients.chunks_mut(TASK)) {
                let width = gradients.len();
                narrow(&part[row * width..][..width], gradients);
            }
        }
        for (part, gradients) in of_output.iter().zip(output.chunks_mut(TASK * self.outputs)) {
            narrow(part, gradients);
        }
        gradients
    }

    /// Adds `lhs rhs` to sums of `columns` columns.
    fn add(&self, sums: &mut [f32], columns: usize, lhs: &Transposed, rhs: &PackedMatrix) {
        let target = Target {
            values: sums,
            row_stride: columns,
        };
        let product = Product::F32(target, Sum::Add);
        multiply(self.kernel, product, lhs.lhs(), rhs, 1.0, None);
    }
}
