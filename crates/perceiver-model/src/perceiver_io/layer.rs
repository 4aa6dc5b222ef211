//! A layer of Perceiver IO: pre-norm attention with a query residual, and an MLP.
//!
//! With `a = LN(q)` and `t = LN(tokens)`, or `t = a` in self-attention, it computes
//! `u = q + Wo attention(Wq a, Wk t, Wv t)` and returns `u + W2 gelu(W1 LN(u))`, with biases
//! everywhere.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};
use perceiver_ops::{
    Attention, Mode, Projections, absorbed_attention, add_dropout, attention, expand_batch, softmax,
};

use crate::attention::form::AttentionForm;
use crate::attention::logits::logits;
use crate::layers::{Dense, LayerNorm};
use crate::perceiver_io::config::PerceiverIoConfig;

/// Epsilon of all layer norms; transformers does not read `layer_norm_eps` for this model.
const EPSILON: f64 = 1e-5;

/// The activation of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    /// GELU with the error function.
    Gelu,
    /// GELU with the tanh approximation.
    GeluTanh,
}

/// The sizes of a layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerSizes {
    /// Width of the queries before their projection, and of the result.
    pub(crate) width: usize,
    /// Width of the tokens; `None` in self-attention.
    pub(crate) tokens: Option<usize>,
    /// Width of all heads' queries together, and of their values.
    pub(crate) inner: [usize; 2],
    pub(crate) heads: usize,
    /// Hidden width of the MLP.
    pub(crate) hidden: usize,
}

/// Creates a fully connected layer with transformers' initialization: normal weight, zero bias.
pub(crate) fn dense(
    config: &PerceiverIoConfig,
    [inputs, outputs]: [usize; 2],
    vb: &VarBuilder,
) -> Result<Dense> {
    Ok(Dense {
        weight: vb.get_with_hints((outputs, inputs), "weight", config.initializer())?,
        bias: vb.get_with_hints(outputs, "bias", Init::Const(0.0))?,
    })
}

/// A cross-attention or self-attention layer.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    norm_queries: LayerNorm,
    norm_tokens: Option<LayerNorm>,
    query: Dense,
    key: Dense,
    value: Dense,
    output: Dense,
    sizes: LayerSizes,
    dropout: f64,
    form: Option<AttentionForm>,
    query_residual: bool,
    norm_mlp: LayerNorm,
    mlp: [Dense; 2],
    activation: Activation,
}

impl Layer {
    pub(crate) fn new(
        config: &PerceiverIoConfig,
        sizes: LayerSizes,
        activation: Activation,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let (own, output, mlp) = (
            vb.pp("attention.self"),
            vb.pp("attention.output"),
            vb.pp("mlp"),
        );
        let LayerSizes {
            width,
            tokens,
            inner: [queries, values],
            hidden,
            ..
        } = sizes;
        let source = tokens.unwrap_or(width);
        let norm = |width: usize, vb: VarBuilder| LayerNorm::new(width, EPSILON, &vb);
        let dense = |inputs, outputs, vb: VarBuilder| dense(config, [inputs, outputs], &vb);
        Ok(Self {
            norm_queries: norm(width, own.pp("layernorm1"))?,
            norm_tokens: tokens
                .map(|tokens| norm(tokens, own.pp("layernorm2")))
                .transpose()?,
            query: dense(width, queries, own.pp("query"))?,
            key: dense(source, queries, own.pp("key"))?,
            value: dense(source, values, own.pp("value"))?,
            output: dense(values, width, output.pp("dense"))?,
            sizes,
            dropout: config.attention_probs_dropout_prob,
            form: None,
            query_residual: true,
            norm_mlp: norm(width, vb.pp("layernorm"))?,
            mlp: [
                dense(width, hidden, mlp.pp("dense1"))?,
                dense(hidden, width, mlp.pp("dense2"))?,
            ],
            activation,
        })
    }

    pub(crate) fn set_activation(&mut self, activation: Activation) {
        self.activation = activation;
    }

    pub(crate) fn set_query_residual(&mut self, query_residual: bool) {
        self.query_residual = query_residual;
    }

    /// Sets the form of a cross-attention; by default it is absorbed where that is cheaper.
    pub(crate) fn set_form(&mut self, form: AttentionForm) {
        self.form = Some(form);
    }

    /// Applies the layer to `queries` `[batch or 1, n, width]`, which attend to `tokens`
    /// `[batch, m, token_width]`, or to themselves: `[batch, n, width]`.
    pub(crate) fn forward(
        &self,
        queries: &Tensor,
        tokens: Option<&Tensor>,
        mode: Mode,
    ) -> Result<Tensor> {
        let normalized = self.norm_queries.forward(queries)?;
        let read = match tokens {
            Some(tokens) => self.cross(&normalized, &self.normalized_tokens(tokens)?, mode)?,
            None => self.direct(&normalized, &normalized, mode)?,
        };
        let sum = if self.query_residual {
            let queries = expand_batch(queries, read.dim(0)?)?;
            add_dropout(&queries, &read, 0.0, Mode::Inference)?
        } else {
            read
        };
        let [first, second] = &self.mlp;
        let hidden = self.norm_mlp.forward(&sum)?;
        let hidden = match self.activation {
            Activation::Gelu => first.forward_gelu(&hidden)?,
            Activation::GeluTanh => first.forward(&hidden)?.gelu()?,
        };
        second.forward_residual(&sum, &hidden, 0.0, Mode::Inference)
    }

    /// Returns the attention weights of a cross-attention, averaged over heads: `[batch, n, m]`.
    pub(crate) fn attention_map(&self, queries: &Tensor, tokens: &Tensor) -> Result<Tensor> {
        let keys = self.key.forward(&self.normalized_tokens(tokens)?)?;
        let queries = self.query.forward(&self.norm_queries.forward(queries)?)?;
        let queries = expand_batch(&queries, keys.dim(0)?)?;
        let logits = (logits(&queries, &keys, self.sizes.heads)? * self.scale())?;
        softmax(&logits)?.mean(1)
    }

    fn normalized_tokens(&self, tokens: &Tensor) -> Result<Tensor> {
        match &self.norm_tokens {
            Some(norm) => norm.forward(tokens),
            None => Ok(tokens.clone()),
        }
    }

    /// Attends from normalized queries to normalized tokens, and projects the result.
    fn cross(&self, queries: &Tensor, tokens: &Tensor, mode: Mode) -> Result<Tensor> {
        match self.form.unwrap_or(self.cheaper_form(tokens.dim(1)?)) {
            AttentionForm::Direct => self.direct(queries, tokens, mode),
            AttentionForm::Absorbed => {
                let projections = Projections {
                    heads: self.sizes.heads,
                    query: self.query.tensors(),
                    key: self.key.tensors(),
                    value: self.value.tensors(),
                    output: Some(self.output.tensors()),
                    scale: None,
                };
                let queries = expand_batch(queries, tokens.dim(0)?)?;
                absorbed_attention(&queries, tokens, &projections.absorb()?, self.how(mode))
            }
        }
    }

    fn direct(&self, queries: &Tensor, tokens: &Tensor, mode: Mode) -> Result<Tensor> {
        let (keys, values) = (self.key.forward(tokens)?, self.value.forward(tokens)?);
        let queries = expand_batch(&self.query.forward(queries)?, keys.dim(0)?)?;
        self.output
            .forward(&attention(&queries, &keys, &values, self.how(mode))?)
    }

    fn how(&self, mode: Mode) -> Attention {
        Attention {
            heads: self.sizes.heads,
            scale: self.scale(),
            dropout: self.dropout,
            mode,
        }
    }

    fn scale(&self) -> f64 {
        let head_width = self.sizes.inner[0] / self.sizes.heads;
        1.0 / (head_width as f64).sqrt()
    }

    /// Returns the form with fewer multiply-adds for `count` tokens of one image. The projections
    /// of keys and values cost `count` times their sizes, their products with those of queries and
    /// outputs `width` times. More than one head would make queries wider in absorbed form.
    fn cheaper_form(&self, count: usize) -> AttentionForm {
        let has_wide_head = self.sizes.heads == 1
            && self.sizes.tokens.is_some_and(|tokens| {
                let [queries, values] = self.sizes.inner;
                tokens <= queries.min(values)
            });
        if has_wide_head && count > self.sizes.width {
            AttentionForm::Absorbed
        } else {
            AttentionForm::Direct
        }
    }
}
