//! Fully connected layers: `y = x W^T + b`.

use crate::error::Result;
use crate::onnx::graph::{Graph, Value};
use crate::weights::Weights;

/// Adds the layer `name`: `[..., inputs] -> [..., outputs]`.
pub(crate) fn dense(graph: &mut Graph, weights: &Weights, name: &str, x: &Value) -> Result<Value> {
    scaled_dense(graph, weights, name, 1.0, x)
}

/// Adds the layer `name` with its results multiplied by `scale`, which changes the constants only.
pub(crate) fn scaled_dense(
    graph: &mut Graph,
    weights: &Weights,
    name: &str,
    scale: f64,
    x: &Value,
) -> Result<Value> {
    let [weight, bias] = weights.dense(name)?;
    // Operators multiply by the transposed matrix.
    let weight = graph.weight(&format!("{name}.weight"), || Ok((weight.t()? * scale)?))?;
    let bias = graph.weight(&format!("{name}.bias"), || Ok((bias * scale)?))?;
    Ok(graph.scoped(name, |graph| {
        let product = graph.op("MatMul", [x, &weight]);
        graph.op("Add", [&product, &bias])
    }))
}
