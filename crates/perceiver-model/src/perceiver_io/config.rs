//! The configuration of a Perceiver IO model: the `config.json` of Hugging Face transformers.

use std::collections::BTreeMap;
use std::path::Path;

use candle_nn::Init;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::attention::form::AttentionForm;
use crate::config::{
    MOST_CLASSES, MOST_DEPTH, MOST_PIXELS, MOST_REPEATS, MOST_WIDTH, disagreement, require_room,
};
use crate::error::{ModelError, Result};
use crate::perceiver_io::kind::{InputKind, LEARNED_CHANNELS};
use crate::perceiver_io::layer::{Activation, LayerSizes};

/// The number of labels of a transformers model whose configuration does not say.
const DEFAULT_LABELS: usize = 2;

/// The width that queries and keys of a cross-attention have when `qk_channels` is not set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttentionWidth {
    /// The width of the latents, from which queries are projected.
    Q,
    /// The width of the tokens, from which keys and values are projected.
    #[default]
    Kv,
}

/// The architecture of a [`PerceiverIo`](crate::PerceiverIo), with the names and defaults of
/// transformers' `PerceiverConfig`. Other keys of a `config.json` are ignored.
///
/// ```
/// use perceiver_model::PerceiverIoConfig;
///
/// let text = r#"{"model_type": "perceiver", "num_latents": 512, "id2label": {"0": "cat", "1": "dog"}}"#;
/// let config: PerceiverIoConfig = serde_json::from_str(text).unwrap();
/// assert_eq!((config.num_latents, config.d_latents, config.num_labels()), (512, 1280, 2));
/// assert_eq!(config.class_names(), ["cat", "dog"]);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PerceiverIoConfig {
    /// The input preprocessor: how pixels become tokens. No key of transformers, which tells it by
    /// the class of the model.
    pub input: InputKind,
    /// Number of latents.
    pub num_latents: usize,
    /// Width of the latents.
    pub d_latents: usize,
    /// Number of times that the self-attention layers are applied, with the same weights.
    pub num_blocks: usize,
    /// Number of self-attention layers.
    pub num_self_attends_per_block: usize,
    /// Number of self-attention heads.
    pub num_self_attention_heads: usize,
    /// Number of heads of the encoder's cross-attention. The decoder has one.
    pub num_cross_attention_heads: usize,
    /// Width of all heads' queries together, and of their keys, in the encoder.
    pub qk_channels: Option<usize>,
    /// Width of all heads' values together in the encoder; `None` means that of the queries.
    pub v_channels: Option<usize>,
    /// Width of the cross-attentions' queries and keys if `qk_channels` is `None`.
    pub cross_attention_shape_for_attention: AttentionWidth,
    /// Hidden width of a self-attention layer's MLP, as a multiple of `d_latents`.
    pub self_attention_widening_factor: usize,
    /// Hidden width of the encoder's cross-attention's MLP, as a multiple of `d_latents`.
    pub cross_attention_widening_factor: usize,
    /// Activation of the MLPs: gelu, or one of the names of its tanh approximation.
    pub hidden_act: String,
    /// Dropout rate of the attention weights, in training.
    pub attention_probs_dropout_prob: f64,
    /// Standard deviation of initial weights, latents and positions.
    pub initializer_range: f64,
    /// Whether the encoder's cross-attention adds its result to the latents.
    pub use_query_residual: bool,
    /// Height and width of the images, in pixels. transformers reads it for a model with learned
    /// positions only.
    pub image_size: usize,
    /// Number of labels; `None` means as many as `id2label` has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_labels: Option<usize>,
    /// Class names by label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id2label: Option<BTreeMap<usize, String>>,
}

impl Default for PerceiverIoConfig {
    fn default() -> Self {
        Self {
            input: InputKind::default(),
            num_latents: 256,
            d_latents: 1280,
            num_blocks: 1,
            num_self_attends_per_block: 26,
            num_self_attention_heads: 8,
            num_cross_attention_heads: 8,
            qk_channels: None,
            v_channels: None,
            cross_attention_shape_for_attention: AttentionWidth::Kv,
            self_attention_widening_factor: 1,
            cross_attention_widening_factor: 1,
            hidden_act: "gelu".to_string(),
            attention_probs_dropout_prob: 0.1,
            initializer_range: 0.02,
            use_query_residual: true,
            image_size: 56,
            num_labels: None,
            id2label: None,
        }
    }
}

/// Returns whether a `config.json` belongs to a Perceiver model of transformers: its `model_type`
/// is `perceiver`.
pub fn is_perceiver_io_config(config: &Value) -> bool {
    config.get("model_type").and_then(Value::as_str) == Some("perceiver")
}

impl PerceiverIoConfig {
    /// Epsilon of all layer norms; transformers does not read `layer_norm_eps` for this model.
    pub const LAYER_NORM_EPSILON: f64 = 1e-5;

    /// Reads a `config.json`.
    ///
    /// # Errors
    /// [`ModelError::NoConfig`] when it cannot be read or is not of a Perceiver model of
    /// transformers.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let wrong = |finding: String| ModelError::NoConfig {
            path: path.to_path_buf(),
            finding,
        };
        let text = perceiver_files::read_text(path).map_err(|error| wrong(error.to_string()))?;
        let value: Value = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if !is_perceiver_io_config(&value) {
            let found = value.get("model_type").unwrap_or(&Value::Null);
            return Err(wrong(format!("model_type {found}")));
        }
        Self::from_json(value).map_err(|error| wrong(error.to_string()))
    }

    /// Reads the content of a `config.json` of a Perceiver model of transformers; the class of the
    /// model tells the input preprocessor.
    ///
    /// # Errors
    /// When a field has a value of another type.
    pub fn from_json(value: Value) -> serde_json::Result<Self> {
        let input = InputKind::of_class(&value);
        let config: Self = serde_json::from_value(value)?;
        Ok(Self {
            input: input.unwrap_or(config.input),
            ..config
        })
    }

    /// Returns the number of labels.
    pub fn num_labels(&self) -> usize {
        let labels = self.id2label.as_ref().map(BTreeMap::len);
        labels.or(self.num_labels).unwrap_or(DEFAULT_LABELS)
    }

    /// Returns the architecture with another number of labels, without names.
    #[must_use]
    pub fn with_num_labels(self, labels: usize) -> Self {
        Self {
            num_labels: Some(labels),
            id2label: None,
            ..self
        }
    }

    /// Returns the class names by label. Without names, transformers calls them `LABEL_0`,
    /// `LABEL_1` and so on.
    pub fn class_names(&self) -> Vec<String> {
        match &self.id2label {
            Some(names) => names.values().cloned().collect(),
            None => (0..self.num_labels())
                .map(|label| format!("LABEL_{label}"))
                .collect(),
        }
    }

    /// Checks that every field is valid, that the fields agree, and that no weight is too large.
    ///
    /// # Errors
    /// [`ModelError::Config`], with the names and values of the fields.
    pub fn validate(&self) -> Result<()> {
        let kind = self.input;
        self.check_sizes()?;
        self.check_labels()?;
        self.activation()?;
        if !(0.0..1.0).contains(&self.attention_probs_dropout_prob) {
            return Err(disagreement(
                "attention_probs_dropout_prob",
                "at least 0 and below 1",
                self.attention_probs_dropout_prob,
            ));
        }
        if !(self.initializer_range >= 0.0 && (self.initializer_range as f32).is_finite()) {
            let found = self.initializer_range;
            let expected = "a finite number of at least 0";
            return Err(disagreement("initializer_range", expected, found));
        }
        let depth = [self.num_blocks, self.num_self_attends_per_block];
        if depth[0] * depth[1] > MOST_DEPTH {
            return Err(disagreement(
                "num_blocks and num_self_attends_per_block",
                format!("at most {MOST_DEPTH} layers in all blocks together"),
                format!("{} times {}", depth[0], depth[1]),
            ));
        }
        check_heads("num_cross_attention_heads", &self.encoder_layer(kind))?;
        check_heads("num_self_attention_heads", &self.self_layer())?;
        if self.self_layer().inner[1] != self.d_latents {
            return Err(disagreement(
                "v_channels and d_latents",
                "values as wide as the latents, for the residual connection",
                format!("{} and {}", self.self_layer().inner[1], self.d_latents),
            ));
        }
        self.check_products(kind)
    }

    /// Checks every size against its own bounds.
    fn check_sizes(&self) -> Result<()> {
        let sizes = [
            ("num_latents", self.num_latents, MOST_WIDTH),
            ("d_latents", self.d_latents, MOST_WIDTH),
            ("num_blocks", self.num_blocks, MOST_REPEATS),
            (
                "num_self_attends_per_block",
                self.num_self_attends_per_block,
                MOST_REPEATS,
            ),
            (
                "num_self_attention_heads",
                self.num_self_attention_heads,
                MOST_REPEATS,
            ),
            (
                "num_cross_attention_heads",
                self.num_cross_attention_heads,
                MOST_REPEATS,
            ),
            ("qk_channels", self.qk_channels.unwrap_or(1), MOST_WIDTH),
            ("v_channels", self.v_channels.unwrap_or(1), MOST_WIDTH),
            (
                "self_attention_widening_factor",
                self.self_attention_widening_factor,
                MOST_REPEATS,
            ),
            (
                "cross_attention_widening_factor",
                self.cross_attention_widening_factor,
                MOST_REPEATS,
            ),
            ("image_size", self.image_size, MOST_PIXELS),
            ("num_labels", self.num_labels(), MOST_CLASSES),
        ];
        for (field, size, most) in sizes {
            if size < 1 {
                return Err(disagreement(field, "at least 1", size));
            }
            if size > most {
                return Err(disagreement(field, format!("at most {most}"), size));
            }
        }
        Ok(())
    }

    /// Checks that labels are numbered from 0 and counted as they are.
    fn check_labels(&self) -> Result<()> {
        let Some(names) = &self.id2label else {
            return Ok(());
        };
        if let Some((label, found)) = (0_usize..)
            .zip(names.keys())
            .find(|(label, key)| label != *key)
        {
            return Err(disagreement(
                "id2label",
                format!("labels numbered from 0, with a {label}"),
                found,
            ));
        }
        match self.num_labels {
            Some(labels) if labels != names.len() => Err(disagreement(
                "num_labels and id2label",
                "as many labels as names",
                format!("{labels} and {}", names.len()),
            )),
            _ => Ok(()),
        }
    }

    /// Checks that every weight fits into memory. Expects sizes within their bounds.
    fn check_products(&self, kind: InputKind) -> Result<()> {
        let width = self.d_latents;
        require_room("num_latents and d_latents", &[self.num_latents, width])?;
        require_room("num_labels and d_latents", &[self.num_labels(), width])?;
        for layer in [
            self.encoder_layer(kind),
            self.self_layer(),
            self.decoder_layer(),
        ] {
            for inner in layer.inner {
                let tokens = layer.tokens.unwrap_or(width);
                require_room("qk_channels, v_channels and d_latents", &[inner, width])?;
                require_room("qk_channels and v_channels", &[inner, tokens])?;
            }
            let fields = "d_latents and the widening factors";
            require_room(fields, &[layer.hidden, width])?;
        }
        if kind == InputKind::Learned {
            let table = [self.image_size, self.image_size, LEARNED_CHANNELS];
            require_room("image_size", &table)?;
        }
        Ok(())
    }

    /// Returns whether the MLPs have the tanh approximation of GELU.
    ///
    /// # Errors
    /// When the activation is neither GELU nor its approximation.
    pub fn has_tanh_gelu(&self) -> Result<bool> {
        Ok(self.activation()? == Activation::GeluTanh)
    }

    /// Returns the form of the encoder's cross-attention that takes fewer multiply-adds once the
    /// products of its weights are known.
    pub fn encoder_form(&self) -> AttentionForm {
        self.encoder_layer(self.input).form_of_products()
    }

    /// Returns the same of the decoder's.
    pub fn decoder_form(&self) -> AttentionForm {
        self.decoder_layer().form_of_products()
    }

    /// Returns the activation of the MLPs.
    pub(crate) fn activation(&self) -> Result<Activation> {
        match self.hidden_act.as_str() {
            "gelu" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
            other => Err(disagreement(
                "hidden_act",
                "gelu, gelu_new or gelu_pytorch_tanh",
                other,
            )),
        }
    }

    /// Returns the initializer of weights, latents and positions.
    pub(crate) fn initializer(&self) -> Init {
        Init::Randn {
            mean: 0.0,
            stdev: self.initializer_range,
        }
    }

    /// Returns the sizes of the encoder's cross-attention layer.
    pub(crate) fn encoder_layer(&self, kind: InputKind) -> LayerSizes {
        let tokens = kind.token_width();
        let queries = self.qk_channels.unwrap_or(self.cross_width(tokens));
        LayerSizes {
            width: self.d_latents,
            tokens: Some(tokens),
            inner: [queries, self.v_channels.unwrap_or(queries)],
            heads: self.num_cross_attention_heads,
            hidden: self.cross_attention_widening_factor * self.d_latents,
        }
    }

    /// Returns the sizes of a self-attention layer.
    pub(crate) fn self_layer(&self) -> LayerSizes {
        let queries = self.qk_channels.unwrap_or(self.d_latents);
        LayerSizes {
            width: self.d_latents,
            tokens: None,
            inner: [queries, self.v_channels.unwrap_or(queries)],
            heads: self.num_self_attention_heads,
            hidden: self.self_attention_widening_factor * self.d_latents,
        }
    }

    /// Returns the sizes of the decoder's cross-attention layer, which no field changes but the
    /// width of the latents.
    pub(crate) fn decoder_layer(&self) -> LayerSizes {
        LayerSizes {
            width: self.d_latents,
            tokens: Some(self.d_latents),
            inner: [self.d_latents; 2],
            heads: 1,
            hidden: self.d_latents,
        }
    }

    fn cross_width(&self, tokens: usize) -> usize {
        match self.cross_attention_shape_for_attention {
            AttentionWidth::Q => self.d_latents,
            AttentionWidth::Kv => tokens,
        }
    }
}

/// Checks that the heads of a layer split its queries and values.
fn check_heads(field: &'static str, layer: &LayerSizes) -> Result<()> {
    match layer
        .inner
        .into_iter()
        .find(|inner| !inner.is_multiple_of(layer.heads))
    {
        None => Ok(()),
        Some(inner) => Err(disagreement(
            field,
            format!("a divisor of the width {inner} of queries or values"),
            layer.heads,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> PerceiverIoConfig {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn missing_keys_have_the_defaults_of_transformers() {
        let empty = config("{}");
        assert_eq!(empty, PerceiverIoConfig::default());
        assert_eq!(empty.num_labels(), 2);
        assert_eq!(empty.class_names(), ["LABEL_0", "LABEL_1"]);
    }

    #[test]
    fn class_names_are_in_the_order_of_their_labels() {
        let names = (0..12).rev().map(|i| format!(r#""{i}": "class {i}""#));
        let names = names.collect::<Vec<_>>().join(", ");
        let config = config(&format!(
            r#"{{"id2label": {{{names}}}, "train_size": [1, 2], "qk_channels": null}}"#
        ));
        let conv = PerceiverIoConfig {
            input: InputKind::Conv,
            ..config.clone()
        };
        conv.validate().unwrap_err(); // 8 heads do not split 322
        let names = config.class_names();
        assert_eq!((names.len(), names[10].as_str()), (12, "class 10"));
    }

    #[test]
    fn configs_are_recognized_by_their_model_type() {
        let is = |text: &str| is_perceiver_io_config(&serde_json::from_str(text).unwrap());
        assert!(is(r#"{"model_type": "perceiver"}"#));
        for other in [
            r#"{"model_type": "perceiver-image-classification"}"#,
            "{}",
            "[]",
            "3",
        ] {
            assert!(!is(other), "{other}");
        }
    }

    #[test]
    fn invalid_fields_are_errors_by_name() {
        let base = PerceiverIoConfig {
            num_cross_attention_heads: 1,
            ..PerceiverIoConfig::default()
        };
        for kind in [InputKind::Learned, InputKind::Fourier, InputKind::Conv] {
            let config = PerceiverIoConfig {
                input: kind,
                ..base.clone()
            };
            config.validate().unwrap();
        }
        let text = serde_json::to_value(&base).unwrap();
        for (field, value) in [
            ("num_latents", "0"),
            ("d_latents", "70000"),
            ("num_blocks", "1000"),
            ("num_self_attention_heads", "7"),
            ("num_cross_attention_heads", "2"),
            ("v_channels", "640"),
            ("hidden_act", "\"relu\""),
            ("attention_probs_dropout_prob", "1.0"),
            ("initializer_range", "-1.0"),
            ("image_size", "5000"),
            ("num_labels", "0"),
            ("id2label", r#"{"0": "a", "2": "c"}"#),
        ] {
            let mut changed = text.clone();
            changed[field] = serde_json::from_str(value).unwrap();
            let changed: PerceiverIoConfig = serde_json::from_value(changed).unwrap();
            let error = changed.validate().unwrap_err().to_string();
            assert!(error.contains(field), "{field}: {error}");
        }
        let counted = PerceiverIoConfig {
            num_labels: Some(3),
            ..config(r#"{"id2label": {"0": "a"}}"#)
        };
        let error = counted.validate().unwrap_err();
        assert!(
            error.to_string().contains("num_labels and id2label"),
            "{error}"
        );
    }
}
