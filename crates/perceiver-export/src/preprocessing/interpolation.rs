//! Interpolation along one axis as a matrix `[outputs, inputs]` that the graph computes.
//!
//! Output `o` of `n` is centred at `c = (o + 0.5) s - 0.5` of `m` inputs, `s = m / n`. Its weight for
//! input `i` is `k((i - c) / r)` with a kernel `k`, and the weights of an output are divided by their
//! sum. The radius `r` is 1, or `max(s, 1)` with anti-aliasing. Where a kernel is cut off by an edge,
//! the sum is smaller and the border counts more.
//!
//! Positions are computed in 64 bits. The matrix has 32: `i - floor(c)` is a whole number, from which
//! the rest of `c` is subtracted, so that positions keep their precision in large images.

use crate::onnx::attribute;
use crate::onnx::graph::{Graph, Value};
use crate::onnx::proto::DataType;
use crate::onnx::tensor::length;
use crate::preprocessing::kernel::Kernel;

/// A resize of one axis.
#[derive(Debug)]
pub(crate) struct Resize<'a> {
    /// Number of inputs, of 64 bits.
    pub(crate) inputs: &'a Value,
    /// Number of outputs, of 64 bits.
    pub(crate) outputs: &'a Value,
    pub(crate) kernel: Kernel,
    pub(crate) antialias: bool,
}

impl Resize<'_> {
    /// Adds the matrix, f32 `[outputs, inputs]`.
    pub(crate) fn matrix(&self, graph: &mut Graph) -> Value {
        let step = graph.op("Div", [self.inputs, self.outputs]);
        let centres = centres(graph, self.outputs, &step);
        if self.kernel == Kernel::Box {
            return self.means(graph, &step, &centres);
        }
        let half = graph.double(0.5);
        let centres = graph.op("Sub", [&centres, &half]); // pixels are at whole numbers
        let whole = graph.op("Floor", [&centres]);
        let rest = graph.op("Sub", [&centres, &whole]);
        let [whole, rest] = [whole, rest].map(|part| {
            let part = graph.cast(&part, DataType::Float);
            graph.reshape(&part, &[-1, 1]) // [outputs, 1]
        });
        let inputs = range(graph, self.inputs);
        let inputs = graph.cast(&inputs, DataType::Float); // [inputs]
        let distance = graph.op("Sub", [&inputs, &whole]); // [outputs, inputs]
        let mut distance = graph.op("Sub", [&distance, &rest]);
        if self.antialias {
            let one = graph.double(1.0);
            let radius = graph.op("Max", [&step, &one]);
            let radius = graph.cast(&radius, DataType::Float);
            distance = graph.op("Div", [&distance, &radius]);
        }
        let weights = self.kernel.weights(graph, &distance);
        normalized(graph, &weights)
    }

    /// Adds the matrix of a kernel with steps, whose distances need all digits: a pixel at a step is in
    /// or out. The operations are in Pillow's order.
    fn means(&self, graph: &mut Graph, step: &Value, centres: &Value) -> Value {
        let centres = graph.reshape(centres, &[-1, 1]);
        let inputs = range(graph, self.inputs);
        let (half, one) = (graph.double(0.5), graph.double(1.0));
        let distance = graph.op("Sub", [&inputs, &centres]); // [outputs, inputs]
        let distance = graph.op("Add", [&distance, &half]);
        let radius = graph.op("Max", [step, &one]);
        let narrowing = graph.op("Div", [&one, &radius]);
        let distance = graph.op("Mul", [&distance, &narrowing]);
        let weights = self.kernel.weights(graph, &distance);
        normalized(graph, &weights)
    }
}

/// Adds the division of every row by its sum.
fn normalized(graph: &mut Graph, weights: &Value) -> Value {
    let axis = graph.ints(&[1]);
    let sums = graph.op("ReduceSum", [weights, &axis]); // [outputs, 1]
    graph.op("Div", [weights, &sums])
}

/// Adds the input at the centre of every output, i64 `[outputs]`, for a resize that averages nothing.
pub(crate) fn nearest(graph: &mut Graph, inputs: &Value, outputs: usize) -> Value {
    let count = graph.double(outputs as f64);
    let step = graph.op("Div", [inputs, &count]);
    // Pillow adds up the step, which can differ from a product in the last bit.
    let half = graph.double(0.5);
    let first = graph.op("Mul", [&step, &half]);
    let first = graph.reshape(&first, &[1]);
    let rest = graph.ints(&[length(outputs) - 1]);
    let rest = graph.op("Expand", [&step, &rest]);
    let steps = graph.node("Concat", [&first, &rest], vec![attribute::int("axis", 0)]);
    let axis = graph.int(0);
    let centres = graph.op("CumSum", [&steps, &axis]);
    let one = graph.double(1.0);
    let last = graph.op("Sub", [inputs, &one]);
    let centres = graph.op("Floor", [&centres]);
    let centres = graph.op("Min", [&centres, &last]);
    graph.cast(&centres, DataType::Int64)
}

/// Adds `(o + 0.5) step` for every output `o`.
fn centres(graph: &mut Graph, outputs: &Value, step: &Value) -> Value {
    let half = graph.double(0.5);
    let outputs = range(graph, outputs);
    let outputs = graph.op("Add", [&outputs, &half]);
    graph.op("Mul", [&outputs, step])
}

/// Adds the whole numbers below a count, all of 64 bits.
fn range(graph: &mut Graph, count: &Value) -> Value {
    let (zero, one) = (graph.double(0.0), graph.double(1.0));
    graph.op("Range", [&zero, count, &one])
}

/// Adds the resampling of rows or columns of `pixels` `[batch, 3, height, width]`.
pub(crate) fn resample(
    graph: &mut Graph,
    pixels: &Value,
    rows: Option<&Value>,
    columns: Option<&Value>,
) -> Value {
    let mut pixels = pixels.clone();
    if let Some(rows) = rows {
        pixels = graph.op("MatMul", [rows, &pixels]);
    }
    if let Some(columns) = columns {
        let columns = graph.transpose(columns, &[1, 0]);
        pixels = graph.op("MatMul", [&pixels, &columns]);
    }
    pixels
}
