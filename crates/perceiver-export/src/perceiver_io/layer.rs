//! A layer of Perceiver IO: pre-norm attention with a query residual, and an MLP.

use perceiver_model::{AttentionForm, PerceiverIoConfig};

use crate::error::Result;
use crate::layers::activation::{gelu, gelu_tanh};
use crate::layers::attention::Attention;
use crate::layers::dense::dense;
use crate::layers::layer_norm::layer_norm;
use crate::onnx::graph::{Graph, Value};
use crate::weights::Weights;

/// A cross-attention or self-attention layer.
#[derive(Debug)]
pub(crate) struct Layer<'a> {
    pub(crate) weights: &'a Weights,
    pub(crate) name: String,
    pub(crate) heads: usize,
    pub(crate) form: AttentionForm,
    pub(crate) query_residual: bool,
    pub(crate) has_tanh_gelu: bool,
}

impl<'a> Layer<'a> {
    /// Creates a layer with one head, in direct form, with the query residual.
    pub(crate) fn new(
        config: &PerceiverIoConfig,
        weights: &'a Weights,
        name: &str,
    ) -> Result<Self> {
        Ok(Self {
            weights,
            name: name.to_string(),
            heads: 1,
            form: AttentionForm::Direct,
            query_residual: true,
            has_tanh_gelu: config.has_tanh_gelu()?,
        })
    }

    /// Adds the layer for `queries` `[batch or 1, n, width]` that attend to `tokens`
    /// `[batch, m, token_width]`: `[batch, n, width]`.
    pub(crate) fn cross(
        &self,
        graph: &mut Graph,
        queries: &Value,
        tokens: &Value,
    ) -> Result<Value> {
        let normalized = self.norm(graph, "attention.self.layernorm1", queries)?;
        let tokens = self.norm(graph, "attention.self.layernorm2", tokens)?;
        self.attend(graph, queries, &normalized, &tokens)
    }

    /// Adds the layer for `x` `[batch, n, width]` that attends to itself.
    pub(crate) fn self_attention(&self, graph: &mut Graph, x: &Value) -> Result<Value> {
        let normalized = self.norm(graph, "attention.self.layernorm1", x)?;
        self.attend(graph, x, &normalized, &normalized)
    }

    fn attend(
        &self,
        graph: &mut Graph,
        queries: &Value,
        normalized: &Value,
        tokens: &Value,
    ) -> Result<Value> {
        let attention = self.attention()?;
        let source = attention.source(graph, tokens)?;
        let read = attention.read(graph, normalized, &source)?;
        let sum = if self.query_residual {
            graph.op("Add", [&read, queries])
        } else {
            read
        };
        let hidden = self.norm(graph, "layernorm", &sum)?;
        let hidden = dense(graph, self.weights, &self.part("mlp.dense1"), &hidden)?;
        let hidden = graph.scoped(&self.part("mlp"), |graph| {
            if self.has_tanh_gelu {
                gelu_tanh(graph, &hidden)
            } else {
                gelu(graph, &hidden)
            }
        })?;
        let branch = dense(graph, self.weights, &self.part("mlp.dense2"), &hidden)?;
        Ok(graph.op("Add", [&sum, &branch]))
    }

    fn attention(&self) -> Result<Attention<'a>> {
        let query = self.part("attention.self.query");
        let [_, bias] = self.weights.dense(&query)?;
        let head_width = bias.dim(0)? / self.heads;
        Ok(Attention {
            weights: self.weights,
            name: self.part("attention"),
            query,
            key: self.part("attention.self.key"),
            value: self.part("attention.self.value"),
            output: Some(self.part("attention.output.dense")),
            heads: self.heads,
            scale: 1.0 / (head_width as f64).sqrt(),
            form: self.form,
        })
    }

    fn norm(&self, graph: &mut Graph, part: &str, x: &Value) -> Result<Value> {
        let epsilon = PerceiverIoConfig::LAYER_NORM_EPSILON;
        layer_norm(graph, self.weights, &self.part(part), epsilon, x)
    }

    fn part(&self, part: &str) -> String {
        format!("{}.{part}", self.name)
    }
}
