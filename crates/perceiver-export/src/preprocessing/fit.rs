//! This project's own steps: downscale large images, normalize, fit to a square.

use perceiver_data::{Fit, Preprocessing};

use crate::onnx::graph::{Graph, Value};
use crate::preprocessing::interpolation::{Resize, resample};
use crate::preprocessing::kernel::Kernel;
use crate::preprocessing::map::{Map, half_difference, slice, to_bytes};

/// The smallest divisor of the normalization, as in Keras.
const EPSILON: f32 = 1e-7;

/// Adds the steps: f32 `[batch, 3, size, size]`.
pub(crate) fn apply(
    graph: &mut Graph,
    steps: &Preprocessing,
    shorter_side: Option<usize>,
    map: Map,
) -> Value {
    let map = match shorter_side {
        Some(side) => downscaled(graph, &map, side.max(1)),
        None => map,
    };
    let normalization = &steps.normalization;
    let deviations = normalization.variance.iter();
    let deviations: Vec<f32> = deviations.map(|v| v.sqrt().max(EPSILON)).collect();
    let mean = graph.channels("preprocessing/mean", &normalization.mean);
    let deviation = graph.channels("preprocessing/deviation", &deviations);
    let centred = graph.op("Sub", [&map.pixels, &mean]);
    let pixels = graph.op("Div", [&centred, &deviation]);
    fitted(graph, steps, Map { pixels, ..map })
}

/// Adds `Image::shrunk_to`: images whose shorter side is longer than `shorter_side` are downscaled to
/// it, anti-aliased, and rounded to bytes.
fn downscaled(graph: &mut Graph, map: &Map, shorter_side: usize) -> Map {
    let shorter = map.shorter_side(graph);
    let (side, half) = (graph.double(shorter_side as f64), graph.double(0.5));
    let [new_rows, new_columns] = map.sides.each_ref().map(|length| {
        let scaled = graph.op("Mul", [length, &side]);
        let scaled = graph.op("Div", [&scaled, &shorter]);
        let scaled = graph.op("Add", [&scaled, &half]);
        let scaled = graph.op("Floor", [&scaled]);
        graph.op("Min", [length, &scaled]) // never enlarged
    });
    let [height, width] = &map.sides;
    let mut matrix = |inputs, outputs| {
        let resize = Resize {
            inputs,
            outputs,
            kernel: Kernel::Triangle,
            antialias: true,
        };
        resize.matrix(graph)
    };
    let (rows, columns) = (matrix(height, &new_rows), matrix(width, &new_columns));
    let pixels = resample(graph, &map.pixels, Some(&rows), Some(&columns));
    Map {
        pixels: to_bytes(graph, &pixels),
        sides: [new_rows, new_columns],
    }
}

/// Adds the resize to a square: the whole image, its middle square, or a square around it.
fn fitted(graph: &mut Graph, steps: &Preprocessing, map: Map) -> Value {
    let size = graph.double(steps.image_size as f64);
    let resize = |graph: &mut Graph, inputs: &Value| {
        let resize = Resize {
            inputs,
            outputs: &size,
            kernel: Kernel::Triangle,
            antialias: steps.antialias,
        };
        resize.matrix(graph)
    };
    let (map, [rows, columns]) = match steps.fit {
        Fit::Stretch => {
            let matrices = map.sides.each_ref().map(|side| resize(graph, side));
            (map, matrices)
        }
        Fit::Crop => {
            let side = map.shorter_side(graph);
            let starts = map
                .sides
                .each_ref()
                .map(|length| half_difference(graph, length, &side, "Floor"));
            let map = map.crop(graph, &starts, [side.clone(), side.clone()]);
            let matrix = resize(graph, &side);
            (map, [matrix.clone(), matrix])
        }
        Fit::Pad => {
            // Normalized values are 0 around the image, so that the columns of the matrix beyond it
            // are left out.
            let [height, width] = &map.sides;
            let side = graph.op("Max", [height, width]);
            let matrix = resize(graph, &side);
            let matrices = map.sides.each_ref().map(|length| {
                let start = half_difference(graph, &side, length, "Floor");
                slice(graph, &matrix, 1, &start, length)
            });
            (map, matrices)
        }
    };
    resample(graph, &map.pixels, Some(&rows), Some(&columns))
}
