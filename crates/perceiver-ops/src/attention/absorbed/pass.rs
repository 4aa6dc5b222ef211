//! A pass of absorbed attention on the CPU: its sizes, its projections and the values saved for the
//! backward pass.

use std::sync::Mutex;

use crate::attention::dropout_mask::Mask;
use crate::attention::shape::Geometry;
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

/// Values of an image saved for the backward pass; all but `input` are empty if none follows. Every
/// input of a product ends in a 1, which multiplies the bias.
pub(super) struct Kept {
    pub(super) input: Vec<f32>,   // [n, width + 1]
    pub(super) queries: Vec<f32>, // [n, heads * token_width]
    pub(super) softmax: Vec<f32>, // [n, heads, kept_width]
    pub(super) read: Vec<f32>,    // [n, heads * token_width + heads + 1]
}

impl AbsorbedAttention {
    /// Returns both projections, stored row by row.
    pub(super) fn projections<'a>(&self, weights: &'a [f32]) -> [Matrix<'a>; 2] {
        let g = self.geometry;
        let (query, output) = weights.split_at((self.width + 1) * g.query_row());
        [
            Matrix::new(query, self.width + 1, g.query_row()),
            Matrix::new(output, g.output_width(), self.outputs),
        ]
    }
}
