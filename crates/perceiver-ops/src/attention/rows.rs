//! Attention of whole tensors: all heads of an image in one product where they share keys and values.
//!
//! The rows of logits are then those of queries, of heads, `[batch, queries * heads, keys]`: nothing is copied to split heads or to join
//! them. Between the products, softmax, its factor and dropout are one operation.

use candle_core::{D, DType, Result, Tensor};

use super::mask::Mask;
use super::products;
use super::shape::Geometry;
use crate::noted::{reshape, transposed};
use crate::{Transpose, batched_matmul_composed, cuda, softmax};

/// How the rows of logits lie, and what falls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    pub(crate) g: Geometry,
    pub(crate) mask: Option<Mask>,
    /// Whether they are `[batch, heads, queries, keys]`, for heads that have keys of their own.
    pub(crate) by_head: bool,
}

/// What `queries` `[batch, n, heads * width]` read by `keys` from `values`, of sizes that were checked: `[batch, n, heads * value_width]`.
pub(crate) fn read(
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    g: Geometry,
    mask: Option<Mask>,
) -> Result<Tensor> {
    let by_head = g.kv_heads > 1;
    let rows = Rows { g, mask, by_head };
    let split = |x: &Tensor, length: usize| {
        let heads = reshape(x, (g.batch, length, g.heads, ()))?;
        transposed(&heads, 1, 2) // [batch, heads, length, width]
    };
    let outputs = (g.batch, g.queries, g.heads * g.value_width);
    if by_head {
        let [queries, keys, values] = [(queries, g.queries), (keys, g.keys), (values, g.keys)]
            .map(|(tensor, length)| split(tensor, length));
        let read = of_rows(&queries?, &keys?, &values?, rows)?;
        return reshape(&transposed(&read, 1, 2)?, outputs);
    }
    let queries = reshape(queries, (g.batch, g.queries * g.heads, g.width))?;
    reshape(&of_rows(&queries, keys, values, rows)?, outputs)
}

fn of_rows(queries: &Tensor, keys: &Tensor, values: &Tensor, rows: Rows) -> Result<Tensor> {
    if cuda::has_kernels(queries) {
        return products::attention(queries, keys, values, rows);
    }
    let logits = batched_matmul_composed(queries, keys, Transpose::Right)?;
    let probabilities = softmax_composed(&logits, rows)?;
    batched_matmul_composed(&probabilities, values, Transpose::Neither)
}

/// `softmax(scale * logits)` of logits in `f32`, of which dropout takes its part, in a type.
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

/// The gradient of the logits, of the type of that of the probabilities.
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

/// `softmax(scale * logits)`, of which dropout takes its part.
pub(crate) fn softmax_composed(logits: &Tensor, rows: Rows) -> Result<Tensor> {
    let probabilities = softmax::softmax_composed(&(logits * f64::from(rows.g.scale))?)?;
    match rows.mask {
        None => Ok(probabilities),
        Some(mask) => probabilities * factors(mask, rows, logits)?,
    }
}

/// What probabilities that lie as `like` are multiplied by, of its type.
fn factors(mask: Mask, Rows { g, by_head, .. }: Rows, like: &Tensor) -> Result<Tensor> {
    let by_heads = (g.batch, g.heads, g.queries, g.keys);
    let mut factors = Tensor::from_vec(mask.factors(g), by_heads, like.device())?;
    if !by_head {
        factors = factors.transpose(1, 2)?.contiguous()?;
    }
    factors.reshape(like.shape())?.to_dtype(like.dtype())
}

impl Rows {
    /// The kernel of that name for rows of this length: some keep a row in registers.
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
