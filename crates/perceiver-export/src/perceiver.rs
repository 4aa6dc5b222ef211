//! The Perceiver of the Keras example as a graph: the operations of `perceiver_model::Perceiver` in
//! inference.

mod encoder;

use perceiver_model::PerceiverConfig;

use crate::error::Result;
use crate::layers::attention::{Attention, Source};
use crate::layers::feed_forward::feed_forward;
use crate::layers::layer_norm::layer_norm;
use crate::onnx::attribute;
use crate::onnx::graph::{Graph, Value};
use crate::weights::Weights;

/// A model to export.
struct Exported<'a> {
    config: &'a PerceiverConfig,
    weights: &'a Weights,
}

/// Adds the model: `images` `[batch, channels, size, size]` to logits `[batch, classes]`.
pub(crate) fn perceiver(
    graph: &mut Graph,
    config: &PerceiverConfig,
    weights: &Weights,
    images: &Value,
) -> Result<Value> {
    let model = Exported { config, weights };
    let data = encoder::encode(graph, config, weights, images)?; // [batch, tokens, width]
    // Keys and values of the data, by set of weights.
    let cross = config.cross_attention_forms().len();
    let cross = (0..cross).map(|set| model.cross_attention(set));
    let cross = cross.collect::<Result<Vec<_>>>()?;
    let sources = cross
        .iter()
        .enumerate()
        .map(|(set, attention)| model.source(graph, set, attention, &data))
        .collect::<Result<Vec<_>>>()?;
    let mut latents = graph.weight("latents", || Ok(weights.get("latents")?.unsqueeze(0)?))?;
    for iteration in 0..config.num_iterations {
        if let Some(set) = config.cross_attention_set(iteration) {
            latents = model.cross(graph, set, &cross[set], &sources[set], &latents)?;
        }
        let transformer = PerceiverConfig::transformer_name(config.transformer_set(iteration));
        for block in 0..config.num_transformer_blocks {
            latents = model.block(graph, &format!("{transformer}.{block}"), &latents)?;
        }
    }
    let attributes = vec![attribute::ints("axes", &[1]), attribute::int("keepdims", 0)];
    let mut pooled = graph.node("ReduceMean", [&latents], attributes); // [batch, width]
    if config.norm_pooled {
        pooled = model.norm(graph, "norm_pooled", &pooled)?;
    }
    feed_forward(
        graph,
        weights,
        "head",
        config.classifier_units.len(),
        &pooled,
    )
}

impl<'a> Exported<'a> {
    fn norm(&self, graph: &mut Graph, name: &str, x: &Value) -> Result<Value> {
        layer_norm(graph, self.weights, name, self.config.layer_norm_epsilon, x)
    }

    fn feed_forward(&self, graph: &mut Graph, name: &str, x: &Value) -> Result<Value> {
        let layers = self.config.ffn_units.len();
        feed_forward(graph, self.weights, &format!("{name}.ffn"), layers, x)
    }

    /// Returns the attention of the cross-attention with a set of weights.
    fn cross_attention(&self, set: usize) -> Result<Attention<'a>> {
        let name = PerceiverConfig::cross_attention_name(set);
        let scale = self.weights.get(&format!("{name}.scale"))?;
        let heads = self.config.num_cross_heads;
        Ok(Attention {
            weights: self.weights,
            query: format!("{name}.query"),
            key: format!("{name}.key"),
            value: format!("{name}.value"),
            output: (heads > 1).then(|| format!("{name}.output")),
            heads,
            scale: f64::from(scale.to_scalar::<f32>()?),
            form: self.config.cross_attention_forms()[set],
            name,
        })
    }

    fn source(
        &self,
        graph: &mut Graph,
        set: usize,
        attention: &Attention<'_>,
        data: &Value,
    ) -> Result<Source> {
        let name = PerceiverConfig::cross_attention_name(set);
        let tokens = self.norm(graph, &format!("{name}.norm_data"), data)?;
        attention.source(graph, &tokens)
    }

    /// Adds a cross-attention: `[batch or 1, latents, width] -> [batch, latents, width]`. Both of its
    /// residuals add normalized values.
    fn cross(
        &self,
        graph: &mut Graph,
        set: usize,
        attention: &Attention<'_>,
        source: &Source,
        latents: &Value,
    ) -> Result<Value> {
        let name = PerceiverConfig::cross_attention_name(set);
        let latents = self.norm(graph, &format!("{name}.norm_latents"), latents)?;
        let read = attention.read(graph, &latents, source)?;
        let sum = graph.op("Add", [&read, &latents]);
        let hidden = self.norm(graph, &format!("{name}.norm_output"), &sum)?;
        let branch = self.feed_forward(graph, &name, &hidden)?;
        Ok(graph.op("Add", [&branch, &hidden]))
    }

    /// Adds a block of the latent transformer: `[batch, latents, width] -> [batch, latents, width]`.
    fn block(&self, graph: &mut Graph, name: &str, x: &Value) -> Result<Value> {
        let normalized = self.norm(graph, &format!("{name}.norm_attention"), x)?;
        let layer = |part: &str| format!("{name}.attention.{part}");
        let attention = Attention {
            weights: self.weights,
            name: format!("{name}.attention"),
            query: layer("query"),
            key: layer("key"),
            value: layer("value"),
            output: Some(layer("output")),
            heads: self.config.num_heads,
            scale: 1.0 / (self.config.head_width() as f64).sqrt(),
            form: self.config.self_attention_form(),
        };
        let source = attention.source(graph, &normalized)?;
        let read = attention.read(graph, &normalized, &source)?;
        let x = graph.op("Add", [x, &read]);
        let normalized = self.norm(graph, &format!("{name}.norm_ffn"), &x)?;
        let branch = self.feed_forward(graph, name, &normalized)?;
        Ok(graph.op("Add", [&x, &branch]))
    }
}
