//! Images to tokens: the stem, and the projection of patches with their positions.

use candle_core::Device;
use perceiver_model::{Parameters, PerceiverConfig};

use crate::error::Result;
use crate::layers::activation::gelu;
use crate::layers::conv::{Window, conv, kernel_of_rows, tokens_of_map};
use crate::layers::layer_norm::layer_norm;
use crate::onnx::graph::{Graph, Value};
use crate::weights::Weights;

/// A convolution of the stem that halves height and width.
const HALVING: Window = Window {
    side: 3,
    stride: 2,
    padding: 1,
};

/// A convolution of the stem at every point.
const AT_EVERY_POINT: Window = Window {
    stride: 1,
    ..HALVING
};

/// The max pooling of the stem.
const POOLING: Window = Window {
    side: 2,
    stride: 2,
    padding: 0,
};

/// Adds the encoder: `images` `[batch, channels, size, size] -> [batch, tokens, width]`.
///
/// The projection of patches is a convolution whose stride is its kernel.
pub(crate) fn encode(
    graph: &mut Graph,
    config: &PerceiverConfig,
    weights: &Weights,
    images: &Value,
) -> Result<Value> {
    let mut map = images.clone();
    for layer in 0..config.stem_units.len() {
        map = stem_layer(graph, config, weights, layer, &map)?;
    }
    let name = "encoder.projection";
    let [weight, bias] = weights.dense(name)?;
    let patch = Window {
        side: config.patch_size,
        stride: config.patch_size,
        padding: 0,
    };
    let kernel = || kernel_of_rows(weight, config.patch_size);
    let map = conv(graph, name, patch, kernel, || Ok(bias.clone()), &map)?;
    let positions = graph.weight("encoder.positions", || {
        let tensors = weights.tensors().clone();
        let parameters = Parameters::from_tensors(config, tensors, &Device::Cpu)?;
        Ok(parameters.model(config)?.positions()?.detach())
    })?;
    Ok(graph.scoped("encoder", |graph| {
        let tokens = tokens_of_map(graph, &map); // [batch, tokens, width]
        graph.op("Add", [&tokens, &positions])
    }))
}

/// Adds a layer of the stem: `[batch, channels, H, W] -> [batch, units, H / 2, W / 2]`.
fn stem_layer(
    graph: &mut Graph,
    config: &PerceiverConfig,
    weights: &Weights,
    layer: usize,
    map: &Value,
) -> Result<Value> {
    let name = format!("stem.{layer}");
    let epsilon = config.layer_norm_epsilon;
    let halved = if config.stem_pooling {
        let map = stem_convolution(graph, weights, &name, AT_EVERY_POINT, map)?;
        graph.scoped(&name, |graph| {
            graph.node("MaxPool", [&map], POOLING.attributes())
        })
    } else {
        stem_convolution(graph, weights, &name, HALVING, map)?
    };
    let mut map = stem_activation(graph, weights, &name, epsilon, &halved)?;
    for block in 0..config.stem_blocks {
        let name = format!("{name}.blocks.{block}");
        let branch = stem_convolution(graph, weights, &name, AT_EVERY_POINT, &map)?;
        let branch = stem_activation(graph, weights, &name, epsilon, &branch)?;
        map = graph.scoped(&name, |graph| graph.op("Add", [&map, &branch]));
    }
    Ok(map)
}

/// Adds a convolution of the stem.
fn stem_convolution(
    graph: &mut Graph,
    weights: &Weights,
    name: &str,
    window: Window,
    map: &Value,
) -> Result<Value> {
    let name = format!("{name}.convolution");
    let [weight, bias] = weights.dense(&name)?;
    let kernel = || kernel_of_rows(weight, window.side);
    conv(graph, &name, window, kernel, || Ok(bias.clone()), map)
}

/// Adds the layer norm and the GELU after a convolution of the stem.
fn stem_activation(
    graph: &mut Graph,
    weights: &Weights,
    name: &str,
    epsilon: f64,
    map: &Value,
) -> Result<Value> {
    // The norm is over channels, which it takes last.
    let map = graph.transpose(map, &[0, 2, 3, 1]);
    let norm = format!("{name}.norm");
    let map = layer_norm(graph, weights, &norm, epsilon, &map)?;
    let map = graph.scoped(name, |graph| gelu(graph, &map))?;
    Ok(graph.transpose(&map, &[0, 3, 1, 2]))
}
