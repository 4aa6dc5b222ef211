//! Layer norm over the last dimension.

use crate::error::Result;
use crate::onnx::attribute;
use crate::onnx::graph::{Graph, Value};
use crate::weights::Weights;

/// Adds the layer norm `name`: `[..., width] -> [..., width]`.
pub(crate) fn layer_norm(
    graph: &mut Graph,
    weights: &Weights,
    name: &str,
    epsilon: f64,
    x: &Value,
) -> Result<Value> {
    let [gamma, beta] = weights.dense(name)?;
    let gamma = graph.weight(&format!("{name}.weight"), || Ok(gamma.clone()))?;
    let beta = graph.weight(&format!("{name}.bias"), || Ok(beta.clone()))?;
    let attributes = vec![
        attribute::int("axis", -1),
        attribute::float("epsilon", epsilon),
    ];
    Ok(graph.scoped(name, |graph| {
        graph.node("LayerNormalization", [x, &gamma, &beta], attributes)
    }))
}
