//! An image in the graph: its pixels, and its height and width as values.

use crate::onnx::attribute;
use crate::onnx::graph::{Graph, Value};
use crate::onnx::proto::DataType;

/// The dimension of a map's rows; that of its columns follows.
const ROWS: i64 = 2;

/// Images of a batch.
#[derive(Clone, Debug)]
pub(crate) struct Map {
    /// f32 `[batch, 3, height, width]`.
    pub(crate) pixels: Value,
    /// Height and width as numbers of 64 bits, without dimensions.
    pub(crate) sides: [Value; 2],
}

impl Map {
    /// Adds the pixels of `images`, u8 `[batch, height, width, 3]`.
    pub(crate) fn new(graph: &mut Graph, images: &Value) -> Self {
        let shape = graph.op("Shape", [images]);
        let sides = [1, 2].map(|dimension| {
            let dimension = graph.int(dimension);
            let side = graph.op("Gather", [&shape, &dimension]);
            graph.cast(&side, DataType::Double)
        });
        let pixels = graph.transpose(images, &[0, 3, 1, 2]);
        let pixels = graph.cast(&pixels, DataType::Float);
        Self { pixels, sides }
    }

    /// Adds the shorter side.
    pub(crate) fn shorter_side(&self, graph: &mut Graph) -> Value {
        let [height, width] = &self.sides;
        graph.op("Min", [height, width])
    }

    /// Adds a crop of given sides, from the row and the column `starts` on.
    pub(crate) fn crop(self, graph: &mut Graph, starts: &[Value; 2], sides: [Value; 2]) -> Self {
        let mut pixels = self.pixels;
        for (axis, (start, side)) in (ROWS..).zip(starts.iter().zip(&sides)) {
            pixels = slice(graph, &pixels, axis, start, side);
        }
        Self { pixels, sides }
    }
}

/// Adds the part of `x` from `start` on, of `length`, along an axis; both are numbers of 64 bits.
pub(crate) fn slice(
    graph: &mut Graph,
    x: &Value,
    axis: i64,
    start: &Value,
    length: &Value,
) -> Value {
    let end = graph.op("Add", [start, length]);
    let [start, end] = [start, &end].map(|position| {
        let position = graph.cast(position, DataType::Int64);
        graph.reshape(&position, &[1])
    });
    let axes = graph.ints(&[axis]);
    graph.op("Slice", [x, &start, &end, &axes])
}

/// Adds the change of values to whole bytes: halves upwards, and no less than 0 nor more than 255.
pub(crate) fn to_bytes(graph: &mut Graph, x: &Value) -> Value {
    let (half, black, white) = (graph.single(0.5), graph.single(0.0), graph.single(255.0));
    let sum = graph.op("Add", [x, &half]);
    let whole = graph.op("Floor", [&sum]);
    graph.op("Clip", [&whole, &black, &white])
}

/// Adds half the difference of two lengths, rounded down or up to a whole number.
pub(crate) fn half_difference(
    graph: &mut Graph,
    longer: &Value,
    shorter: &Value,
    rounding: &str,
) -> Value {
    let around = graph.op("Sub", [longer, shorter]);
    let half = graph.double(0.5);
    let half = graph.op("Mul", [&around, &half]);
    graph.op(rounding, [&half])
}

/// Adds a mirror image, left to right.
pub(crate) fn mirrored(graph: &mut Graph, pixels: &Value) -> Value {
    let (start, end) = (graph.ints(&[-1]), graph.ints(&[i64::MIN]));
    let (axes, steps) = (graph.ints(&[ROWS + 1]), graph.ints(&[-1]));
    graph.op("Slice", [pixels, &start, &end, &axes, &steps])
}

/// Adds the concatenation of two batches.
pub(crate) fn one_batch(graph: &mut Graph, first: &Value, second: &Value) -> Value {
    graph.node("Concat", [first, second], vec![attribute::int("axis", 0)])
}
