//! The backward pass of absorbed attention in bf16: one task per image, then one per part of the
//! weights.

use std::sync::PoisonError;

use half::bf16;
use rayon::prelude::*;

use super::softmax::{dot, logit_gradients, without_dropped};
use super::weight_gradients::ForWeights;
use super::{AbsorbedBf16, Kept, LOGIT_ROWS, stride};
use crate::cpu::gemm::{Sum, Target};
use crate::half_precision::narrow;
use crate::matmul::operand::Operand;
use crate::matmul::packed_matrix::PackedMatrix;
use crate::matmul::transposed::Transposed;
use crate::matmul::unpacked::{Lhs, Product, RowMajor, multiply};

/// The transposes of both projections.
struct Projections {
    /// `[heads * token_width, width]`, without the bias.
    query: PackedMatrix,
    /// `[outputs, heads * token_width + heads + 1]`
    output: PackedMatrix,
}

/// An image's contribution to the gradients.
struct Gradients {
    dqueries: Vec<bf16>, // [n, heads * token_width]
    dtokens: Vec<f32>,   // [m, token_width]
}

impl AbsorbedBf16 {
    /// Computes the gradients of `x`, `tokens` and the weights. In self-attention, the first holds
    /// the gradients of the first two.
    pub(super) fn backward(
        &self,
        tokens: &[bf16],
        weights: &[bf16],
        grad: &[bf16],
        are_tokens: bool,
    ) -> [Vec<bf16>; 3] {
        let g = self.geometry;
        let all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let [query, output] = self.projections(weights);
        let packed =
            |matrix: RowMajor| PackedMatrix::in_parallel(Operand::from(matrix).transposed());
        let projections = Projections {
            query: packed(query.rows(0, self.width)),
            output: packed(output),
        };
        let mut dx = vec![bf16::ZERO; g.batch * g.queries * self.width];
        let token_values = g.keys * g.key_row();
        let mut dtokens = vec![
            bf16::ZERO;
            if are_tokens {
                0
            } else {
                g.batch * token_values
            }
        ];
        let mut of_images: Vec<&mut [bf16]> = dtokens.chunks_mut(token_values).collect();
        of_images.resize_with(g.batch, Default::default);
        let for_weights: Vec<ForWeights> = dx
            .par_chunks_mut(g.queries * self.width)
            .zip(of_images)
            .zip(tokens.par_chunks(token_values))
            .zip(grad.par_chunks(g.queries * self.outputs))
            .zip(all.par_iter())
            .map(|((((dx, dtokens), tokens), grad), kept)| {
                let grad = RowMajor::new(grad, g.queries, self.outputs);
                let mut found = self.of_image(tokens, grad, kept, &projections);
                let dqueries = RowMajor {
                    row_stride: self.strides().queries,
                    ..RowMajor::new(&found.dqueries, g.queries, g.query_row())
                };
                if are_tokens {
                    let target = Target {
                        values: &mut found.dtokens,
                        row_stride: self.width,
                    };
                    let product = Product::F32(target, Sum::Add);
                    multiply(
                        self.kernel,
                        product,
                        Lhs::Rows(dqueries),
                        &projections.query,
                        1.0,
                        None,
                    );
                    narrow(&found.dtokens, dx);
                } else {
                    self.product(dx, self.width, Lhs::Rows(dqueries), &projections.query, 1.0);
                    narrow(&found.dtokens, dtokens);
                }
                let input = RowMajor {
                    row_stride: self.strides().input,
                    ..RowMajor::new(&kept.input, g.queries, self.width + 1)
                };
                ForWeights::new(self.kernel, input, grad, found.dqueries)
            })
            .collect();
        [dx, dtokens, self.weight_gradients(&for_weights, &all)]
    }

    /// Computes the gradients of an image's queries and tokens.
    fn of_image(
        &self,
        tokens: &[bf16],
        grad: RowMajor,
        kept: &Kept,
        projections: &Projections,
    ) -> Gradients {
        let g = self.geometry;
        let strides = self.strides();
        let tokens = Operand::from(RowMajor::new(tokens, g.keys, g.key_row()));
        let keys = PackedMatrix::new(tokens).with_even_rows();
        let values = PackedMatrix::new(tokens.transposed());
        let mut dread = vec![bf16::ZERO; g.queries * strides.read];
        self.product(
            &mut dread,
            strides.read,
            Lhs::Rows(grad),
            &projections.output,
            1.0,
        );

        let mut found = Gradients {
            dqueries: vec![bf16::ZERO; g.queries * strides.queries],
            dtokens: vec![0f32; g.keys * g.key_row()],
        };
        let factor = self.factor();
        // One head's, in rows of their own.
        let row_stride = stride(g.keys);
        let mut dlogits = vec![bf16::ZERO; g.queries * row_stride];
        let mut left = vec![
            bf16::ZERO;
            if self.mask.is_some() {
                dlogits.len()
            } else {
                0
            }
        ];
        let mut packed = (Transposed::new(self.kernel), PackedMatrix::default());
        for head in 0..g.heads {
            self.logit_gradients(head, &dread, kept, &values, &mut dlogits);
            let logits = |values, row_stride, columns| RowMajor {
                row_stride,
                ..RowMajor::new(values, g.queries, columns)
            };
            let marked = &kept.probabilities[head * strides.keys..];
            let probabilities = if self.mask.is_some() {
                without_dropped(marked, strides.probabilities, &mut left, row_stride, g.keys);
                logits(&left, row_stride, g.keys)
            } else {
                logits(marked, strides.probabilities, g.keys)
            };
            let dread = self.of_head(&dread, head, strides.read);
            let queries = self.of_head(&kept.queries, head, strides.queries);
            // dT = P^T dy + dS^T q
            let dtokens = &mut found.dtokens;
            self.add_transposed(dtokens, &mut packed, probabilities, dread, factor);
            let of_logits = logits(&dlogits, row_stride, g.keys);
            self.add_transposed(dtokens, &mut packed, of_logits, queries, g.scale);
            let of_logits = Lhs::Rows(logits(&dlogits, row_stride, strides.keys));
            let dqueries = &mut found.dqueries[head * g.width..];
            self.product(dqueries, strides.queries, of_logits, &keys, g.scale);
        }
        found
    }

    /// Returns a head's columns of queries, or of what they read.
    fn of_head<'a>(&self, values: &'a [bf16], head: usize, row_stride: usize) -> RowMajor<'a> {
        let g = self.geometry;
        RowMajor {
            row_stride,
            ..RowMajor::new(&values[head * g.width..], g.queries, g.width)
        }
    }

    /// Computes the gradient of a head's logits, some queries at a time.
    fn logit_gradients(
        &self,
        head: usize,
        dread: &[bf16],
        kept: &Kept,
        values: &PackedMatrix,
        dlogits: &mut [bf16],
    ) {
        let g = self.geometry;
        let strides = self.strides();
        let factor = self.factor();
        let columns = head * g.value_width..(head + 1) * g.value_width;
        let sum_column = g.heads * g.value_width + head;
        let marked = &kept.probabilities[head * strides.keys..];
        let mut products = vec![0f32; LOGIT_ROWS.min(g.queries) * g.keys];
        for start in (0..g.queries).step_by(LOGIT_ROWS) {
            // dP before the dropout mask: dy v^T.
            let count = LOGIT_ROWS.min(g.queries - start);
            let target = Target {
                values: &mut products,
                row_stride: g.keys,
            };
            let rows = self.of_head(dread, head, strides.read).rows(start, count);
            let product = Product::F32(target, Sum::Replace);
            multiply(self.kernel, product, Lhs::Rows(rows), values, 1.0, None);
            for (row, products) in products.chunks(g.keys).take(count).enumerate() {
                let row = start + row;
                let of_row = |values| -> &[bf16] { row_of(values, row, strides.read) };
                let (dread, read) = (of_row(dread), of_row(&kept.read));
                let of_sum = dread[sum_column].to_f32();
                let sum = dot(&dread[columns.clone()], &read[columns.clone()])
                    + of_sum * read[sum_column].to_f32();
                let marked = &row_of(marked, row, strides.probabilities)[..g.keys];
                let dlogits = &mut dlogits[row * stride(g.keys)..][..g.keys];
                logit_gradients(factor, sum, of_sum, marked, products, dlogits);
            }
        }
    }

    /// Adds `scale * lhs^T rhs` to the gradients of the tokens.
    fn add_transposed(
        &self,
        dtokens: &mut [f32],
        (transposed, packed): &mut (Transposed, PackedMatrix),
        lhs: RowMajor,
        rhs: RowMajor,
        scale: f32,
    ) {
        transposed.pack(lhs);
        packed.pack(rhs);
        let target = Target {
            values: dtokens,
            row_stride: rhs.columns,
        };
        let product = Product::F32(target, Sum::Add);
        multiply(self.kernel, product, transposed.lhs(), packed, scale, None);
    }
}

/// Returns the values from the start of a row on.
fn row_of(values: &[bf16], row: usize, row_stride: usize) -> &[bf16] {
    &values[row * row_stride..]
}
