//! The steps of transformers' image processor of Perceiver IO: center crop, Pillow's resize to bytes,
//! rescale, normalize.

use perceiver_data::{CropOffset, TransformersPreprocessing};

use crate::onnx::attribute;
use crate::onnx::graph::{Graph, Value};
use crate::preprocessing::interpolation::{Resize, nearest, resample};
use crate::preprocessing::kernel::Kernel;
use crate::preprocessing::map::{Map, half_difference, to_bytes};

/// Adds the steps: f32 `[batch, 3, size, size]`.
pub(crate) fn apply(graph: &mut Graph, steps: &TransformersPreprocessing, map: Map) -> Value {
    let map = if steps.do_center_crop {
        cropped(graph, steps, map)
    } else {
        map
    };
    let mut pixels = match Kernel::of(steps.resample) {
        Some(kernel) => resized(graph, steps, kernel, &map),
        None => picked(graph, steps, &map),
    };
    if steps.do_rescale {
        let factor = graph.single(steps.rescale_factor);
        pixels = graph.op("Mul", [&pixels, &factor]);
    }
    if steps.do_normalize {
        let [mean, deviation] =
            [steps.image_mean, steps.image_std].map(|all| all.map(|v| v as f32));
        let mean = graph.channels("preprocessing/mean", &mean);
        let deviation = graph.channels("preprocessing/deviation", &deviation);
        pixels = graph.op("Sub", [&pixels, &mean]);
        pixels = graph.op("Div", [&pixels, &deviation]);
    }
    pixels
}

/// Adds the crop of the middle: sides of `trunc(size / crop_size * shorter side)`, at least 1.
fn cropped(graph: &mut Graph, steps: &TransformersPreprocessing, map: Map) -> Map {
    let shorter = map.shorter_side(graph);
    let (size, crop) = (steps.size, steps.crop_size);
    let shares = [(size.height, crop.height), (size.width, crop.width)];
    let sides = shares.map(|(size, crop)| {
        let (share, one) = (graph.double(size as f64 / crop as f64), graph.double(1.0));
        let side = graph.op("Mul", [&share, &shorter]);
        let side = graph.op("Floor", [&side]);
        graph.op("Max", [&side, &one])
    });
    let rounding = match steps.crop_offset {
        CropOffset::Floor => "Floor",
        CropOffset::Ceil => "Ceil",
    };
    let [height, width] = &map.sides;
    let starts = [(height, &sides[0]), (width, &sides[1])]
        .map(|(length, side)| half_difference(graph, length, side, rounding));
    map.crop(graph, &starts, sides)
}

/// Adds the resize by a kernel, one axis after the other with bytes in between.
fn resized(
    graph: &mut Graph,
    steps: &TransformersPreprocessing,
    kernel: Kernel,
    map: &Map,
) -> Value {
    let size = graph.double(steps.size.height as f64); // a square, which `validate` ensures
    let [rows, columns] = map.sides.each_ref().map(|inputs| {
        let resize = Resize {
            inputs,
            outputs: &size,
            kernel,
            antialias: true,
        };
        resize.matrix(graph)
    });
    let width_first = |graph: &mut Graph| {
        let narrow = resample(graph, &map.pixels, None, Some(&columns));
        let narrow = to_bytes(graph, &narrow);
        resample(graph, &narrow, Some(&rows), None)
    };
    let height_first = |graph: &mut Graph| {
        let short = resample(graph, &map.pixels, Some(&rows), None);
        let short = to_bytes(graph, &short);
        resample(graph, &short, None, Some(&columns))
    };
    let is_square = steps.do_center_crop && steps.crop_size.height == steps.crop_size.width;
    let pixels = if is_square {
        width_first(graph)
    } else {
        let is_height_first = is_height_first(graph, map, &size);
        let branches = vec![
            attribute::graph("then_branch", graph.branch(height_first)),
            attribute::graph("else_branch", graph.branch(width_first)),
        ];
        graph.node("If", [&is_height_first], branches)
    };
    to_bytes(graph, &pixels)
}

/// Adds whether Pillow resizes the height first: if it loses more than twice as many pixels as the
/// width.
fn is_height_first(graph: &mut Graph, map: &Map, size: &Value) -> Value {
    let [rows, columns] = map
        .sides
        .each_ref()
        .map(|side| graph.op("Sub", [side, size]));
    let (zero, two) = (graph.double(0.0), graph.double(2.0));
    let columns = graph.op("Mul", [&columns, &two]);
    let is_shorter = graph.op("Greater", [&rows, &zero]);
    let is_more = graph.op("Greater", [&rows, &columns]);
    graph.op("And", [&is_shorter, &is_more])
}

/// Adds the resize that takes the pixels at the centres.
fn picked(graph: &mut Graph, steps: &TransformersPreprocessing, map: &Map) -> Value {
    let mut pixels = map.pixels.clone();
    for (axis, side) in (2..).zip(&map.sides) {
        let picks = nearest(graph, side, steps.size.height);
        pixels = graph.node(
            "Gather",
            [&pixels, &picks],
            vec![attribute::int("axis", axis)],
        );
    }
    pixels
}
