//! A pass of absorbed attention on the CPU: its sizes, its projections and the values saved for the
//! backward pass.

use std::sync::Mutex;

use rayon::prelude::*;

use crate::attention::dropout_mask::Mask;
use crate::attention::shape::{Geometry, part};
use crate::cpu::gemm::Matrix;

/// Absorbed attention of a batch.
pub(super) struct AbsorbedAttention {
    pub(super) geometry: Geometry,
    /// Width of the query inputs.
    pub(super) width: usize,
    pub(super) outputs: usize,
    pub(super) mask: Option<Mask>,
    /// Whether a backward pass may follow.
    pub(super) keep: bool,
    /// Values saved for the backward pass, per image.
    pub(super) kept: Mutex<Vec<Kept>>,
}

/// Values of an image saved for the backward pass, head after head; those of heads are empty if none
/// follows. Every left operand of a projection ends in a 1, which multiplies the bias.
pub(super) struct Kept {
    pub(super) input: Vec<f32>,   // [n, width + 1]
    pub(super) queries: Vec<f32>, // [heads, n, token_width]
    pub(super) softmax: Vec<f32>, // [heads, n, kept_width]
    pub(super) read: Vec<f32>,    // [heads, n, token_width]
    /// Sums of the probabilities after dropout, `[n, heads + 1]`.
    pub(super) sums: Vec<f32>,
}

/// Returns a head's rows of `[heads, n, token_width]`.
pub(super) fn rows_of_head(g: Geometry, values: &[f32], head: usize) -> Matrix<'_> {
    Matrix::new(&values[head * g.queries * g.width..], g.queries, g.width)
}

/// Both projections, head by head.
pub(super) struct Projections<T> {
    pub(super) query: Vec<T>,  // per head, [width + 1, token_width]
    pub(super) output: Vec<T>, // per head, [token_width, outputs]
    /// The output projection's rows for the sums of probabilities and for the bias,
    /// `[heads + 1, outputs]`.
    pub(super) of_sums: T,
}

impl<T: Send> Projections<T> {
    pub(super) fn map<U: Send>(self, operand: impl Fn(T) -> U + Sync) -> Projections<U> {
        Projections {
            query: self.query.into_par_iter().map(&operand).collect(),
            output: self.output.into_par_iter().map(&operand).collect(),
            of_sums: operand(self.of_sums),
        }
    }
}

impl AbsorbedAttention {
    /// Returns the parts of both projections, which are stored row by row.
    pub(super) fn projections<'a>(&self, weights: &'a [f32]) -> Projections<Matrix<'a>> {
        let g = self.geometry;
        let (query, output) = weights.split_at((self.width + 1) * g.query_row());
        let columns = |head: usize| {
            part(
                query,
                self.width + 1,
                g.query_row(),
                head * g.width,
                g.width,
            )
        };
        let rows = |first: usize, count: usize| {
            Matrix::new(&output[first * self.outputs..], count, self.outputs)
        };
        Projections {
            query: (0..g.heads).map(columns).collect(),
            output: (0..g.heads)
                .map(|head| rows(head * g.value_width, g.value_width))
                .collect(),
            of_sums: rows(g.heads * g.value_width, g.heads + 1),
        }
    }
}
