//! Perceiver IO as a graph: the operations of `perceiver_model::PerceiverIo` in inference, for images
//! of one size.

mod layer;
mod preprocessor;

use candle_core::Device;
use perceiver_model::{Parameters, PerceiverIoConfig};

use crate::error::Result;
use crate::layers::dense::dense;
use crate::onnx::graph::{Graph, Value};
use crate::onnx::tensor::length;
use crate::perceiver_io::layer::Layer;
use crate::weights::Weights;

/// Adds the model: normalized `images` `[batch, 3, size, size]` to logits `[batch, labels]`.
pub(crate) fn perceiver_io(
    graph: &mut Graph,
    config: &PerceiverIoConfig,
    weights: &Weights,
    images: &Value,
) -> Result<Value> {
    let tensors = weights.tensors().clone();
    let parameters = Parameters::from_tensors(config, tensors, &Device::Cpu)?;
    let model = parameters.model(config)?;
    let tokens = preprocessor::tokens(graph, config, weights, &model, images)?;
    let latents = "perceiver.embeddings.latents";
    let latents = graph.weight(latents, || Ok(weights.get(latents)?.unsqueeze(0)?))?;
    let encoder = Layer {
        heads: config.num_cross_attention_heads,
        form: config.encoder_form(),
        query_residual: config.use_query_residual,
        ..Layer::new(config, weights, "perceiver.encoder.cross_attention")?
    };
    let mut latents = encoder.cross(graph, &latents, &tokens)?; // [batch, latents, width]
    for _ in 0..config.num_blocks {
        for number in 0..config.num_self_attends_per_block {
            let layer = Layer {
                heads: config.num_self_attention_heads,
                ..Layer::new(
                    config,
                    weights,
                    &format!("perceiver.encoder.self_attends.{number}"),
                )?
            };
            latents = layer.self_attention(graph, &latents)?;
        }
    }
    decode(graph, config, weights, &latents)
}

/// Adds the decoder: `[batch, latents, width] -> [batch, labels]`.
fn decode(
    graph: &mut Graph,
    config: &PerceiverIoConfig,
    weights: &Weights,
    latents: &Value,
) -> Result<Value> {
    let name = |part: &str| format!("perceiver.decoder.decoder.{part}");
    let query = name("output_position_encodings.position_embeddings");
    let query = graph.weight(&query, || Ok(weights.get(&query)?.unsqueeze(0)?))?; // [1, 1, width]
    let layer = Layer {
        form: config.decoder_form(),
        ..Layer::new(config, weights, &name("decoding_cross_attention"))?
    };
    let read = layer.cross(graph, &query, latents)?; // [batch, 1, width]
    let read = graph.reshape(&read, &[0, length(config.d_latents)]);
    dense(graph, weights, &name("final_layer"), &read)
}
