//! The shapes of absorbed attention: checks the weights against the inputs.

use candle_core::{Result, Tensor, bail};

use crate::attention::Attention;
use crate::attention::absorbed::weights::AbsorbedWeights;
use crate::attention::dropout_mask::Mask;
use crate::attention::shape::Geometry;
use crate::attention::softmax_dropout::Rows;

/// Returns the sizes of the attention between the projections.
pub(super) fn geometry(
    x: &Tensor,
    tokens: &Tensor,
    weights: &AbsorbedWeights,
    how: Attention,
) -> Result<Geometry> {
    let (batch, n, width) = x.dims3()?;
    let (_, _, token_width) = tokens.dims3()?;
    let inner = how.heads * token_width;
    if weights.query != (width + 1, inner)
        || weights.output.0 != inner + how.heads + 1
        || weights.output.1 == 0
    {
        bail!(
            "absorbed attention of {} heads: expected a query projection {:?} and an output projection [{}, outputs], found {:?} \
             and {:?}",
            how.heads,
            (width + 1, inner),
            inner + how.heads + 1,
            weights.query,
            weights.output
        );
    }
    let mut geometry = Geometry::new(&[batch, n, inner], tokens.dims(), tokens.dims(), how)?;
    geometry.append_sums = true;
    Ok(geometry)
}

/// Returns the layout of the logits for attention between the projections by whole-tensor products.
pub(super) fn rows_of(geometry: Geometry, how: Attention) -> Result<Rows> {
    let g = Geometry {
        append_sums: false,
        ..geometry
    };
    Ok(Rows {
        g,
        mask: Mask::new(how.dropout, how.mode, geometry)?,
        by_head: false,
    })
}
