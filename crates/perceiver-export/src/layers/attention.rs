//! Attention, `softmax(scale * q k^T) v` per head, in direct or absorbed form.
//!
//! In absorbed form, the products of query and key projections and of value and output projections
//! are constants, and the tokens are keys and values of every head (see
//! `perceiver_ops::AbsorbedWeights`). Queries of all heads are then rows of one matrix product.

use candle_core::Tensor;
use perceiver_model::AttentionForm;
use perceiver_ops::{AbsorbedWeights, Projections};

use crate::error::Result;
use crate::layers::dense::{dense, scaled_dense};
use crate::onnx::graph::{Graph, Value};
use crate::onnx::tensor::length;
use crate::weights::Weights;

/// An attention layer: the names of its projections, and how it is computed.
#[derive(Debug)]
pub(crate) struct Attention<'a> {
    pub(crate) weights: &'a Weights,
    /// The layer, for the names of nodes and of products of weights.
    pub(crate) name: String,
    pub(crate) query: String,
    pub(crate) key: String,
    pub(crate) value: String,
    /// The output projection; `None` if the values of the single head are the result.
    pub(crate) output: Option<String>,
    pub(crate) heads: usize,
    /// The scale of the attention logits.
    pub(crate) scale: f64,
    pub(crate) form: AttentionForm,
}

/// Keys and values, which several reads may share.
#[derive(Debug)]
pub(crate) struct Source {
    /// `[batch, heads, width, tokens]`, without heads if there is one or in absorbed form.
    keys: Value,
    /// `[batch, heads, tokens, width]`, likewise.
    values: Value,
}

impl Attention<'_> {
    /// Adds keys and values of `tokens` `[batch, tokens, width]`.
    pub(crate) fn source(&self, graph: &mut Graph, tokens: &Value) -> Result<Source> {
        if self.form == AttentionForm::Absorbed {
            let keys = graph.scoped(&self.name, |graph| graph.transpose(tokens, &[0, 2, 1]));
            let values = tokens.clone();
            return Ok(Source { keys, values });
        }
        let keys = dense(graph, self.weights, &self.key, tokens)?;
        let values = dense(graph, self.weights, &self.value, tokens)?;
        if self.heads == 1 {
            let keys = graph.scoped(&self.name, |graph| graph.transpose(&keys, &[0, 2, 1]));
            return Ok(Source { keys, values });
        }
        Ok(Source {
            keys: self.split_heads(graph, &keys, &[0, 2, 3, 1]),
            values: self.split_heads(graph, &values, &[0, 2, 1, 3]),
        })
    }

    /// Adds a read of `x` `[batch or 1, n, width]`, with the output projection: `[batch, n, outputs]`.
    pub(crate) fn read(&self, graph: &mut Graph, x: &Value, source: &Source) -> Result<Value> {
        if self.form == AttentionForm::Absorbed {
            return self.absorbed(graph, x, source);
        }
        let mut queries = scaled_dense(graph, self.weights, &self.query, self.scale, x)?;
        if self.heads > 1 {
            queries = self.split_heads(graph, &queries, &[0, 2, 1, 3]);
        }
        let read = graph.scoped(&self.name, |graph| {
            let read = softmax_product(graph, &queries, source);
            if self.heads == 1 {
                return Ok(read);
            }
            let [_, value_bias] = self.weights.dense(&self.value)?;
            let joined = graph.transpose(&read, &[0, 2, 1, 3]); // [batch, n, heads, width]
            Ok::<_, crate::ExportError>(graph.reshape(&joined, &[0, 0, length(value_bias.dim(0)?)]))
        })?;
        match &self.output {
            Some(output) => dense(graph, self.weights, output, &read),
            None => Ok(read),
        }
    }

    /// Splits the last dimension into heads and changes the order of the dimensions.
    fn split_heads(&self, graph: &mut Graph, x: &Value, order: &[i64]) -> Value {
        graph.scoped(&self.name, |graph| {
            let heads = graph.reshape(x, &[0, 0, length(self.heads), -1]);
            graph.transpose(&heads, order)
        })
    }

    fn absorbed(&self, graph: &mut Graph, x: &Value, source: &Source) -> Result<Value> {
        let products = Products::new(self)?;
        let of = |part: &str| format!("{}.{part}", self.name);
        let query = graph.weight(&of("query_key.weight"), || products.query())?;
        let query_bias = graph.weight(&of("query_key.bias"), || products.query_bias())?;
        let output = graph.weight(&of("value_output.weight"), || products.output())?;
        let output_bias = graph.weight(&of("value_output.bias"), || products.output_bias())?;
        let token_width = length(products.token_width);
        Ok(graph.scoped(&self.name, |graph| {
            let queries = graph.op("MatMul", [x, &query]);
            let queries = graph.op("Add", [&queries, &query_bias]); // [batch, n, heads * width]
            // Every head is a row of its own: [batch, n * heads, width].
            let queries = graph.reshape(&queries, &[0, -1, token_width]);
            let read = softmax_product(graph, &queries, source);
            let read = graph.reshape(&read, &[0, -1, length(self.heads) * token_width]);
            let read = graph.op("MatMul", [&read, &output]);
            graph.op("Add", [&read, &output_bias])
        }))
    }
}

/// Adds `softmax(q k^T) v`.
fn softmax_product(graph: &mut Graph, queries: &Value, source: &Source) -> Value {
    let logits = graph.op("MatMul", [queries, &source.keys]);
    let probabilities = graph.softmax(&logits);
    graph.op("MatMul", [&probabilities, &source.values])
}

/// The products of projections in absorbed form.
struct Products {
    absorbed: AbsorbedWeights,
    scale: f64,
    token_width: usize,
    heads: usize,
}

impl Products {
    fn new(layer: &Attention<'_>) -> Result<Self> {
        let output = layer.output.as_ref();
        let projections = Projections {
            heads: layer.heads,
            query: layer.weights.dense(&layer.query)?,
            key: layer.weights.dense(&layer.key)?,
            value: layer.weights.dense(&layer.value)?,
            output: output
                .map(|output| layer.weights.dense(output))
                .transpose()?,
            scale: None,
        };
        Ok(Self {
            token_width: projections.key[0].dim(1)?,
            absorbed: projections.absorb()?,
            scale: layer.scale,
            heads: layer.heads,
        })
    }

    /// `[width, heads * token_width]`, with the scale.
    fn query(&self) -> Result<Tensor> {
        let rows = self.absorbed.query()?;
        Ok((rows.narrow(0, 0, rows.dim(0)? - 1)? * self.scale)?)
    }

    /// `[heads * token_width]`, with the scale.
    fn query_bias(&self) -> Result<Tensor> {
        let rows = self.absorbed.query()?;
        Ok((rows.get(rows.dim(0)? - 1)? * self.scale)?)
    }

    /// `[heads * token_width, outputs]`.
    fn output(&self) -> Result<Tensor> {
        let rows = self.absorbed.output()?;
        Ok(rows.narrow(0, 0, self.heads * self.token_width)?)
    }

    /// `[outputs]`: probabilities of every head sum to 1, so that its value bias is a constant.
    fn output_bias(&self) -> Result<Tensor> {
        let rows = self.absorbed.output()?;
        let biases = rows.narrow(0, self.heads * self.token_width, self.heads + 1)?;
        Ok(biases.sum(0)?)
    }
}
