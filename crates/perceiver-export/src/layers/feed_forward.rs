//! The feed-forward network of the Keras example: GELU after every layer but the last.

use crate::error::Result;
use crate::layers::activation::gelu;
use crate::layers::dense::dense;
use crate::onnx::graph::{Graph, Value};
use crate::weights::Weights;

/// Adds the `layers` layers of the network `name`: `[..., inputs] -> [..., outputs]`.
pub(crate) fn feed_forward(
    graph: &mut Graph,
    weights: &Weights,
    name: &str,
    layers: usize,
    x: &Value,
) -> Result<Value> {
    let mut x = x.clone();
    for index in 0..layers {
        if index > 0 {
            x = graph.scoped(name, |graph| gelu(graph, &x))?;
        }
        x = dense(graph, weights, &format!("{name}.{index}"), &x)?;
    }
    Ok(x)
}
