//! Activations: GELU and its tanh approximation, composed of operators, since `Gelu` is one from
//! opset 20 on only.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI};

use crate::error::Result;
use crate::onnx::graph::{Graph, Value};

/// Adds `x (1 + erf(x / sqrt 2)) / 2`.
pub(crate) fn gelu(graph: &mut Graph, x: &Value) -> Result<Value> {
    let factor = graph.number(FRAC_1_SQRT_2)?;
    let scaled = graph.op("Mul", [x, &factor]);
    let erf = graph.op("Erf", [&scaled]);
    half_of_one_plus(graph, x, &erf)
}

/// Adds `x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2`.
pub(crate) fn gelu_tanh(graph: &mut Graph, x: &Value) -> Result<Value> {
    let (cubic, linear) = (FRAC_2_PI.sqrt() * 0.044_715, FRAC_2_PI.sqrt());
    let (cubic, linear) = (graph.number(cubic)?, graph.number(linear)?);
    let square = graph.op("Mul", [x, x]);
    let square = graph.op("Mul", [&square, &cubic]);
    let factor = graph.op("Add", [&square, &linear]);
    let angle = graph.op("Mul", [x, &factor]);
    let tanh = graph.op("Tanh", [&angle]);
    half_of_one_plus(graph, x, &tanh)
}

/// Adds `x (1 + share) / 2`.
fn half_of_one_plus(graph: &mut Graph, x: &Value, share: &Value) -> Result<Value> {
    let (one, half) = (graph.number(1.0)?, graph.number(0.5)?);
    let sum = graph.op("Add", [share, &one]);
    let half_x = graph.op("Mul", [x, &half]);
    Ok(graph.op("Mul", [&half_x, &sum]))
}
