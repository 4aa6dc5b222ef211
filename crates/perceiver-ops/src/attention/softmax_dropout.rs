//! Scaled softmax with dropout over attention logits, as one operation.

use candle_core::{D, DType, Result, Tensor};

use crate::attention::dropout_mask::Mask;
use crate::attention::shape::Geometry;
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::nn::softmax;

/// Layout and dropout of the rows of logits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    pub(crate) g: Geometry,
    pub(crate) mask: Option<Mask>,
    /// Whether the layout is `[batch, heads, queries, keys]`, for heads with keys of their own.
    pub(crate) by_head: bool,
}

/// Computes dropout of `softmax(scale * logits)` from `f32` logits, in the type `dtype`.
pub(crate) fn softmax_dropout(logits: &Tensor, rows: Rows, dtype: DType) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if logits.device().is_cuda() {
        let (kernel, numbers) = (rows.kernel("softmax_dropout"), rows.numbers());
        return cuda::computed([logits], |operands| {
            cuda::map_rows_to(dtype, &kernel, operands, &numbers)
        });
    }
    softmax_composed(logits, rows)?.to_dtype(dtype)
}

/// Computes the gradient of the logits, in the type of the gradient of the probabilities.
pub(crate) fn softmax_dropout_backward(
    logits: &Tensor,
    grad: &Tensor,
    rows: Rows,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if logits.device().is_cuda() {
        let (kernel, numbers) = (rows.kernel("softmax_dropout_backward"), rows.numbers());
        return cuda::computed([logits, grad], |operands| {
            cuda::map_rows_to(grad.dtype(), &kernel, operands, &numbers)
        });
    }
    let Rows { g, mask, .. } = rows;
    let probabilities = softmax_composed(logits, Rows { mask: None, ..rows })?;
    let dtype = grad.dtype();
    let mut grad = grad.to_dtype(DType::F32)?;
    if let Some(mask) = mask {
        grad = (grad * factors(mask, rows, logits)?)?;
    }
    let dot = (&probabilities * &grad)?.sum_keepdim(D::Minus1)?;
    let logits = ((probabilities * grad.broadcast_sub(&dot)?)? * f64::from(g.scale))?;
    logits.to_dtype(dtype)
}

/// Computes dropout of `softmax(scale * logits)` by candle's operations.
pub(crate) fn softmax_composed(logits: &Tensor, rows: Rows) -> Result<Tensor> {
    let probabilities = softmax::softmax_composed(&(logits * f64::from(rows.g.scale))?)?;
    match rows.mask {
        None => Ok(probabilities),
        Some(mask) => probabilities * factors(mask, rows, logits)?,
    }
}

/// Returns the dropout factors of probabilities in the layout and type of `like`.
fn factors(mask: Mask, Rows { g, by_head, .. }: Rows, like: &Tensor) -> Result<Tensor> {
    let by_heads = (g.batch, g.heads, g.queries, g.keys);
    let mut factors = Tensor::from_vec(mask.factors(g), by_heads, like.device())?;
    if !by_head {
        factors = factors.transpose(1, 2)?.contiguous()?;
    }
    factors.reshape(like.shape())?.to_dtype(like.dtype())
}

impl Rows {
    /// Returns the name of the kernel for rows of this length: some keep a row in registers.
    #[cfg(any(test, feature = "cuda"))]
    pub(crate) fn kernel(&self, name: &str) -> String {
        match self.g.keys {
            keys if keys % 16 != 0 => name.to_string(),
            0..=256 => format!("{name}_256"),
            257..=1024 => format!("{name}_1024"),
            _ => name.to_string(),
        }
    }

    #[cfg(feature = "cuda")]
    fn numbers(&self) -> [cuda::Number; 7] {
        use cuda::Number::{Real, Short, Whole};
        let Self { g, mask, by_head } = *self;
        let (queries, heads) = if by_head {
            (g.queries * g.heads, 1)
        } else {
            (g.queries, g.heads)
        };
        let (key, threshold, factor) = mask.map_or((0, 0, 1.0), |mask| mask.for_gpu());
        [
            Whole(g.keys as u64),
            Real(g.scale),
            Whole(queries as u64),
            Whole(heads as u64),
            Whole(key),
            Short(threshold),
            Real(factor),
        ]
    }
}
