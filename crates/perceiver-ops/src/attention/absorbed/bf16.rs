//! Absorbed attention on bf16 tensors, on CPUs with instructions for bf16.
//!
//! Every product reads bf16 and sums in `f32`; what it writes is rounded once, to the bf16 that the
//! next product reads. Softmax and its gradient are computed in `f32`, on some rows of logits that
//! stay in a core's cache. Values for the backward pass are kept in bf16, half as much as in `f32`.

mod backward;
mod forward;
mod softmax;
mod weight_gradients;

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor};
use half::bf16;

use crate::attention::absorbed::weights::PackedWeights;
use crate::attention::dropout_mask::Mask;
use crate::attention::shape::Geometry;
use crate::half_precision::{narrow_values, with_narrow_values};
use crate::matmul::kernel::Bf16Kernel;
use crate::matmul::unpacked::RowMajor;

/// Most keys: all logits of a block of queries are computed together.
pub(super) const MOST_KEYS: usize = 4096;

/// Number of queries whose logits are computed together: with 256 keys, 64 KB.
const LOGIT_ROWS: usize = 64;

/// Absorbed attention of a batch in bf16.
pub(super) struct AbsorbedBf16 {
    pub(super) geometry: Geometry,
    pub(super) kernel: Bf16Kernel,
    /// Width of the query inputs.
    pub(super) width: usize,
    pub(super) outputs: usize,
    pub(super) mask: Option<Mask>,
    /// Whether a backward pass may follow.
    pub(super) keep: bool,
    pub(super) packed: PackedWeights,
    /// Values saved for the backward pass, per image.
    pub(super) kept: Mutex<Vec<Kept>>,
}

/// Values of an image saved for the backward pass, in rows of [`Strides`].
pub(super) struct Kept {
    input: Vec<bf16>,         // [n, width + 1], a 1 after the inputs
    queries: Vec<bf16>,       // [n, heads * token_width]
    probabilities: Vec<bf16>, // [n, heads, m], with the sign bit set for dropped ones
    read: Vec<bf16>,          // [n, heads * token_width + heads + 1]
}

/// Numbers of values from one row to the next.
#[derive(Clone, Copy)]
struct Strides {
    input: usize,
    queries: usize,
    probabilities: usize,
    read: usize,
    /// From one head's probabilities to the next in a row; they are followed by a 0 if their number
    /// is odd, so that they are whole pairs.
    keys: usize,
}

impl Strides {
    fn of(g: Geometry, width: usize) -> Self {
        let keys = g.keys.next_multiple_of(2);
        Self {
            input: stride(width + 1),
            queries: stride(g.query_row()),
            probabilities: stride(g.heads * keys),
            read: stride(g.output_width()),
            keys,
        }
    }
}

/// Returns the stride of rows of `len` values: whole pairs, and no power of two, since a core's cache
/// holds few values whose addresses differ by multiples of one.
fn stride(len: usize) -> usize {
    const LINE: usize = 32; // 64 bytes
    let stride = len.next_multiple_of(LINE);
    if stride.is_multiple_of(8 * LINE) {
        stride + LINE
    } else {
        stride
    }
}

impl AbsorbedBf16 {
    /// Returns the scale of kept values in dropout.
    fn factor(&self) -> f32 {
        self.mask.map_or(1.0, |mask| mask.factor)
    }

    fn strides(&self) -> Strides {
        Strides::of(self.geometry, self.width)
    }

    /// Returns both projections, `[width + 1, heads * token_width]` and
    /// `[heads * token_width + heads + 1, outputs]`.
    fn projections<'a>(&self, weights: &'a [bf16]) -> [RowMajor<'a>; 2] {
        let g = self.geometry;
        let (query, output) = weights.split_at((self.width + 1) * g.query_row());
        [
            RowMajor::new(query, self.width + 1, g.query_row()),
            RowMajor::new(output, g.output_width(), self.outputs),
        ]
    }
}

impl CustomOp3 for AbsorbedBf16 {
    fn name(&self) -> &'static str {
        "absorbed-attention-bf16"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        tokens: &CpuStorage,
        tokens_layout: &Layout,
        weights: &CpuStorage,
        weights_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = narrow_values(self.name(), x, x_layout)?;
        let tokens = narrow_values(self.name(), tokens, tokens_layout)?;
        let weights = narrow_values(self.name(), weights, weights_layout)?;
        let (output, kept) = self.forward(x, tokens, weights);
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        let g = self.geometry;
        let shape = Shape::from((g.batch, g.queries, self.outputs));
        Ok((CpuStorage::BF16(output), shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        tokens: &Tensor,
        weights: &Tensor,
        _output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let are_tokens = x.id() == tokens.id();
        let grad = grad.to_dtype(DType::BF16)?.contiguous()?;
        let tensors = [tokens, weights, &grad];
        let [dx, dtokens, dweights] =
            with_narrow_values(self.name(), tensors, |[tokens, weights, grad]| {
                self.backward(tokens, weights, grad, are_tokens)
            })?;
        let tensor = |values: Vec<bf16>, like: &Tensor| {
            Tensor::from_vec(values, like.shape(), like.device())
        };
        Ok((
            Some(tensor(dx, x)?),
            (!are_tokens).then(|| tensor(dtokens, tokens)).transpose()?,
            Some(tensor(dweights, weights)?),
        ))
    }
}
