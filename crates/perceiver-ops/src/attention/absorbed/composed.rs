//! Absorbed attention composed of candle's operations.

use candle_core::{Result, Tensor};

use crate::attention::Attention;
use crate::attention::absorbed::shape::{geometry, rows_of};
use crate::attention::absorbed::weights::AbsorbedWeights;
use crate::attention::batched;
use crate::attention::bias_columns::with_ones_composed;
use crate::attention::shape::Geometry;
use crate::nn::broadcast::add_bias;

/// Computes [`absorbed_attention`](crate::absorbed_attention) by candle's operations: the fallback
/// for devices without a kernel, and the reference in tests. The dropout mask is the same.
///
/// # Errors
/// As for [`absorbed_attention`](crate::absorbed_attention).
pub fn absorbed_attention_composed(
    x: &Tensor,
    tokens: &Tensor,
    weights: &AbsorbedWeights,
    how: Attention,
) -> Result<Tensor> {
    let rows = rows_of(geometry(x, tokens, weights, how)?, how)?;
    let (batch, n, _) = x.dims3()?;
    let weights = weights.rows(how.heads)?;
    let [query, output] = weights.matrices()?;
    let product = |x: &Tensor, weights: &Tensor| {
        let product = x.reshape((batch * n, ()))?.matmul(&weights.squeeze(0)?)?;
        product.reshape((batch, n, ()))
    };
    let queries = product(&with_ones_composed(x)?, &query)?;
    let values = with_ones_composed(tokens)?;
    let g = Geometry {
        value_width: values.dim(2)?,
        ..rows.g
    };
    let read = product(
        &batched::read(&queries, tokens, &values, g, rows.mask)?,
        &output,
    )?;
    match &weights.bias {
        Some(bias) => add_bias(&read, bias),
        None => Ok(read),
    }
}
