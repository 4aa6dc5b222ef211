//! Input preprocessors of Perceiver IO: images to tokens, features concatenated with positions.

use perceiver_model::{InputKind, PerceiverIo, PerceiverIoConfig};

use crate::error::Result;
use crate::layers::conv::{Window, conv, tokens_of_map};
use crate::onnx::attribute;
use crate::onnx::graph::{Graph, Value};
use crate::onnx::tensor::length;
use crate::weights::Weights;

/// The prefix of the names of weights.
const NAME: &str = "perceiver.input_preprocessor";

/// The convolution of the stem.
const STEM: Window = Window {
    side: 7,
    stride: 2,
    padding: 3,
};

/// The max pooling of the stem.
const POOL: Window = Window {
    side: 3,
    stride: 2,
    padding: 0,
};

/// A convolution of single pixels.
const PIXEL: Window = Window {
    side: 1,
    stride: 1,
    padding: 0,
};

/// Adds the tokens of `images` `[batch, 3, size, size]`: `[batch, tokens, token_width]`.
pub(crate) fn tokens(
    graph: &mut Graph,
    config: &PerceiverIoConfig,
    weights: &Weights,
    model: &PerceiverIo,
    images: &Value,
) -> Result<Value> {
    let map = features(graph, config, weights, model, images)?;
    let size = config.image_size;
    let positions = model.positions(size, size)?.detach(); // [tokens, width]
    let (tokens, width) = positions.dims2()?;
    let positions = graph.weight(&format!("{NAME}.positions"), || Ok(positions))?;
    Ok(graph.scoped(NAME, |graph| {
        let features = tokens_of_map(graph, &map);
        // The same for every image of the batch.
        let batch = vec![attribute::int("start", 0), attribute::int("end", 1)];
        let batch = graph.node("Shape", [images], batch);
        let shape = graph.ints(&[length(tokens), length(width)]);
        let shape = graph.node("Concat", [&batch, &shape], vec![attribute::int("axis", 0)]);
        let positions = graph.op("Expand", [&positions, &shape]);
        let axis = vec![attribute::int("axis", 2)];
        graph.node("Concat", [&features, &positions], axis)
    }))
}

/// Adds the features of tokens as a map: `[batch, features, rows, columns]`.
fn features(
    graph: &mut Graph,
    config: &PerceiverIoConfig,
    weights: &Weights,
    model: &PerceiverIo,
    images: &Value,
) -> Result<Value> {
    match config.input {
        InputKind::Fourier => Ok(images.clone()),
        InputKind::Learned => {
            let name = format!("{NAME}.convnet_1x1");
            let [kernel, bias] = weights.dense(&name)?;
            let (kernel, bias) = (|| Ok(kernel.clone()), || Ok(bias.clone()));
            conv(graph, &name, PIXEL, kernel, bias, images)
        }
        InputKind::Conv => {
            let folded = model.stem_convolution()?;
            let [kernel, bias] = folded.ok_or_else(|| crate::ExportError::MissingWeight {
                name: format!("{NAME}.convnet.conv.weight"),
            })?;
            // With the batch norm in it, so that its name is another than the weight's.
            let name = format!("{NAME}.convnet");
            let (kernel, bias) = (|| Ok(kernel.detach()), || Ok(bias.detach()));
            let map = conv(graph, &name, STEM, kernel, bias, images)?;
            Ok(graph.scoped(&name, |graph| {
                let map = graph.op("Relu", [&map]);
                graph.node("MaxPool", [&map], POOL.attributes())
            }))
        }
    }
}
