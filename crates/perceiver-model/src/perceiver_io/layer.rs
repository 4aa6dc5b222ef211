//! A layer of Perceiver IO: pre-norm attention with a query residual, and an MLP.
//!
//! With `a = LN(q)` and `t = LN(tokens)`, or `t = a` in self-attention, it computes
//! `u = q + Wo attention(Wq a, Wk t, Wv t)` and returns `u + W2 gelu(W1 LN(u))`, with biases
//! everywhere.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};
use perceiver_ops::{
    AbsorbedWeights, Attention, CheckpointedParameters, Mode, Projections, absorbed_attention,
    add_dropout, attention, by_inputs, expand_batch, softmax,
};

use crate::attention::form::AttentionForm;
use crate::attention::logits::logits;
use crate::layers::{Dense, LayerNorm};
use crate::perceiver_io::config::PerceiverIoConfig;

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

impl LayerSizes {
    /// Returns the form with fewer multiply-adds once the products of weights are known.
    pub(crate) fn form_of_products(&self) -> AttentionForm {
        if self.has_wide_heads() {
            AttentionForm::Absorbed
        } else {
            AttentionForm::Direct
        }
    }

    /// Returns whether all heads together are as wide as the tokens for each head, or wider. Then
    /// queries that meet the tokens themselves are no wider than those that meet keys, and a
    /// cross-attention takes fewer multiply-adds in absorbed form, once its products of weights are
    /// known.
    pub(crate) fn has_wide_heads(&self) -> bool {
        let [queries, values] = self.inner;
        self.tokens
            .is_some_and(|tokens| self.heads * tokens <= queries.min(values))
    }
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

/// Returns a layer for inference only, with the weight in the order in which products read it.
pub(crate) fn folded_dense(dense: &Dense) -> Result<Dense> {
    Ok(Dense {
        weight: by_inputs(&dense.weight)?,
        bias: dense.bias.clone(),
    })
}

/// Returns the attention weights of logits, averaged over heads:
/// `[batch, heads, n, m] -> [batch, n, m]`.
pub(crate) fn attention_map(logits: &Tensor) -> Result<Tensor> {
    let weights = softmax(logits)?;
    match weights.dim(1)? {
        1 => weights.squeeze(1), // a mean over one head would copy it
        _ => weights.mean(1),
    }
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
    absorbed: Option<AbsorbedWeights>,
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
        let norm = |width: usize, vb: VarBuilder| {
            LayerNorm::new(width, PerceiverIoConfig::LAYER_NORM_EPSILON, &vb)
        };
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
            absorbed: None,
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

    /// Returns a copy for inference only, with precomputed products of weights if its form is
    /// absorbed, and weights in the order in which products read them.
    pub(crate) fn folded(&self) -> Result<Self> {
        let absorbs = match self.form {
            Some(form) => form == AttentionForm::Absorbed && self.sizes.tokens.is_some(),
            None => self.sizes.has_wide_heads(),
        };
        let mut folded = self.clone();
        if absorbs {
            folded.absorbed = Some(self.projections().absorb()?);
        } else {
            for dense in [
                &mut folded.query,
                &mut folded.key,
                &mut folded.value,
                &mut folded.output,
            ] {
                *dense = folded_dense(dense)?;
            }
        }
        for dense in &mut folded.mlp {
            *dense = folded_dense(dense)?;
        }
        Ok(folded)
    }

    /// Returns the tensors that a forward pass in direct form uses.
    fn tensors_mut(&mut self) -> Vec<&mut Tensor> {
        let [first, second] = &mut self.mlp;
        let norms = [Some(&mut self.norm_queries), self.norm_tokens.as_mut()];
        let norms = norms.into_iter().flatten().chain([&mut self.norm_mlp]);
        let layers = [
            &mut self.query,
            &mut self.key,
            &mut self.value,
            &mut self.output,
            first,
            second,
        ];
        norms
            .flat_map(LayerNorm::tensors_mut)
            .chain(layers.into_iter().flat_map(Dense::tensors_mut))
            .collect()
    }

    /// Returns the parameters for [`Layer::forward_recomputed`], once per pass.
    pub(crate) fn checkpointed(&self) -> Result<CheckpointedParameters> {
        let mut own = self.clone();
        let tensors = own.tensors_mut().into_iter().map(|tensor| &*tensor);
        CheckpointedParameters::new(&tensors.collect::<Vec<_>>())
    }

    /// Runs [`Layer::forward`] of a self-attention layer with activation checkpointing: the backward
    /// pass keeps only the input.
    pub(crate) fn forward_recomputed(
        &self,
        x: &Tensor,
        parameters: &CheckpointedParameters,
        mode: Mode,
    ) -> Result<Tensor> {
        let layer = self.clone();
        parameters.recompute(x, move |x, tensors| {
            let mut layer = layer.clone();
            for (own, given) in layer.tensors_mut().into_iter().zip(tensors) {
                *own = given.clone();
            }
            layer.forward(x, None, mode)
        })
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

    /// Returns the attention logits of `queries` `[batch or 1, n, width]` to `tokens`
    /// `[batch, m, token_width]`, or to themselves: `[batch, heads, n, m]`. They are those of the
    /// direct form; in absorbed form, rows differ by constants.
    pub(crate) fn logits(&self, queries: &Tensor, tokens: Option<&Tensor>) -> Result<Tensor> {
        let normalized = self.norm_queries.forward(queries)?;
        let keys = match tokens {
            Some(tokens) => self.key.forward(&self.normalized_tokens(tokens)?)?,
            None => self.key.forward(&normalized)?,
        };
        // There are fewer queries than logits to scale.
        let queries = (self.query.forward(&normalized)? * self.scale())?;
        let queries = expand_batch(&queries, keys.dim(0)?)?;
        logits(&queries, &keys, self.sizes.heads)
    }

    fn normalized_tokens(&self, tokens: &Tensor) -> Result<Tensor> {
        match &self.norm_tokens {
            Some(norm) => norm.forward(tokens),
            None => Ok(tokens.clone()),
        }
    }

    /// Attends from normalized queries to normalized tokens, and projects the result.
    fn cross(&self, queries: &Tensor, tokens: &Tensor, mode: Mode) -> Result<Tensor> {
        if self.form(tokens.dim(1)?) == AttentionForm::Direct {
            return self.direct(queries, tokens, mode);
        }
        let weights = match &self.absorbed {
            Some(weights) => weights.clone(),
            None => self.projections().absorb()?,
        };
        let queries = expand_batch(queries, tokens.dim(0)?)?;
        absorbed_attention(&queries, tokens, &weights, self.how(mode))
    }

    fn projections(&self) -> Projections<'_> {
        Projections {
            heads: self.sizes.heads,
            query: self.query.tensors(),
            key: self.key.tensors(),
            value: self.value.tensors(),
            output: Some(self.output.tensors()),
            scale: None,
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

    /// Returns the form of a cross-attention to `count` tokens of an image: the one that was set, or
    /// else the one with fewer multiply-adds. The projections of keys and values cost `count` times
    /// their sizes, their products with those of queries and outputs `width` times, unless they are
    /// known already.
    fn form(&self, count: usize) -> AttentionForm {
        let is_cheaper =
            self.sizes.has_wide_heads() && (self.absorbed.is_some() || count > self.sizes.width);
        match self.form {
            Some(form) => form,
            None if is_cheaper => AttentionForm::Absorbed,
            None => AttentionForm::Direct,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::{DType, Device, Var};
    use perceiver_ops::{RngKey, Tape};

    use super::*;
    use crate::perceiver_io::testing::tensor;

    const TOKEN_WIDTH: usize = 12;
    const WIDTH: usize = 16;

    /// A layer with random weights, and its variables.
    fn layer(tokens: Option<usize>) -> (Layer, Vec<Var>) {
        let sizes = LayerSizes {
            width: WIDTH,
            tokens,
            inner: [TOKEN_WIDTH; 2],
            heads: if tokens.is_some() { 1 } else { 3 },
            hidden: 20,
        };
        let names = crate::weights::parameters::recorded(|vb| {
            let config = PerceiverIoConfig::default();
            Ok(Layer::new(&config, sizes, Activation::Gelu, &vb).map(drop)?)
        });
        let variables: Vec<(String, Var)> = names
            .unwrap()
            .into_iter()
            .enumerate()
            .map(|(seed, (name, (shape, _)))| {
                let values = tensor(seed as u64, shape.dims());
                let values = if name.contains("layernorm") && name.ends_with("weight") {
                    (values + 1.5).unwrap()
                } else {
                    values
                };
                (name, Var::from_tensor(&values).unwrap())
            })
            .collect();
        let tensors = variables.iter();
        let tensors = tensors.map(|(name, variable)| (name.clone(), variable.as_tensor().clone()));
        let tensors: HashMap<String, Tensor> = tensors.collect();
        let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        let config = PerceiverIoConfig::default();
        let layer = Layer::new(&config, sizes, Activation::Gelu, &vb).unwrap();
        (layer, variables.into_iter().map(|(_, v)| v).collect())
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn assert_close(found: &Tensor, expected: &Tensor) {
        assert_eq!(found.dims(), expected.dims());
        for (found, expected) in values(found).iter().zip(values(expected)) {
            let bound = 1e-4 * expected.abs().max(1.0);
            assert!((found - expected).abs() < bound, "{found}, not {expected}");
        }
    }

    /// Three applications with dropout have the same values and gradients, on candle's graph and on
    /// the tape.
    #[test]
    fn recomputed_layers_give_the_same_bits() {
        let (layer, variables) = layer(None);
        let x = Var::from_tensor(&tensor(90, &[2, 5, WIDTH])).unwrap();
        let mode = |step| Mode::Training(RngKey::new(7)).child(step);
        let plain = || {
            (0..3).fold(x.as_tensor().clone(), |x, step| {
                layer.forward(&x, None, mode(step)).unwrap()
            })
        };
        let recomputed = || {
            let parameters = layer.checkpointed().unwrap();
            (0..3).fold(x.as_tensor().clone(), |x, step| {
                let x = layer.forward_recomputed(&x, &parameters, mode(step));
                x.unwrap()
            })
        };
        assert_eq!(values(&recomputed()), values(&plain()));
        let loss = |y: Tensor| (&y * &tensor(91, y.dims())).unwrap().sum_all().unwrap();
        let expected = loss(plain()).backward().unwrap();
        let tape = Tape::start();
        let y = loss(recomputed());
        let recorded = tape.backward(&y).unwrap();
        let found = loss(recomputed()).backward().unwrap();
        for variable in variables.iter().chain([&x]) {
            let expected = expected.get(variable).unwrap();
            assert_close(found.get(variable).unwrap(), expected);
            assert_close(recorded.get(variable).unwrap(), expected);
        }
    }

    #[test]
    fn folded_layers_compute_the_same() {
        let queries = tensor(92, &[1, 3, WIDTH]);
        let tokens = tensor(93, &[2, 7, TOKEN_WIDTH]);
        let (cross, _) = layer(Some(TOKEN_WIDTH));
        let folded = cross.folded().unwrap();
        assert_eq!(cross.form(7), AttentionForm::Direct);
        assert_eq!(folded.form(7), AttentionForm::Absorbed);
        let forward = |layer: &Layer| {
            let y = layer.forward(&queries, Some(&tokens), Mode::Inference);
            y.unwrap()
        };
        assert_close(&forward(&folded), &forward(&cross));
        let mut direct = folded.clone();
        direct.set_form(AttentionForm::Direct);
        assert_eq!(values(&forward(&direct)), values(&forward(&cross)));

        let (own, _) = layer(None);
        let x = tensor(94, &[2, 7, WIDTH]);
        let forward = |layer: &Layer| layer.forward(&x, None, Mode::Inference).unwrap();
        let folded = own.folded().unwrap();
        assert_eq!(values(&forward(&folded)), values(&forward(&own)));
    }

    /// Logits are scaled products of queries and keys: checked for one query, by hand.
    #[test]
    fn logits_are_scaled_products_of_queries_and_keys() {
        let (cross, _) = layer(Some(TOKEN_WIDTH));
        let queries = tensor(95, &[1, 1, WIDTH]);
        let tokens = tensor(96, &[2, 4, TOKEN_WIDTH]);
        let logits = cross.logits(&queries, Some(&tokens)).unwrap();
        assert_eq!(logits.dims(), [2, 1, 1, 4]);
        let query = cross
            .query
            .forward(&cross.norm_queries.forward(&queries).unwrap());
        let query = values(&query.unwrap());
        let keys = cross
            .key
            .forward(&cross.normalized_tokens(&tokens).unwrap());
        let keys = values(&keys.unwrap());
        for (logit, key) in values(&logits).iter().zip(keys.chunks(TOKEN_WIDTH)) {
            let product: f32 = query.iter().zip(key).map(|(q, k)| q * k).sum();
            let expected = product / (TOKEN_WIDTH as f32).sqrt();
            assert!((logit - expected).abs() < 1e-4, "{logit}, not {expected}");
        }
        let map = attention_map(&logits).unwrap();
        assert_eq!(map.dims(), [2, 1, 4]);
        for weights in values(&map).chunks(4) {
            assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        }
    }
}
