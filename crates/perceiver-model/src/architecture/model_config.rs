//! The configuration of a model of any kind, as recipes and checkpoints hold it.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value};

use crate::architecture::Architecture;
use crate::architecture::custom::CustomModel;
use crate::classifier::Classifier;
use crate::config::PerceiverConfig;
use crate::error::Result;
use crate::perceiver_io::config::PerceiverIoConfig;
use crate::summary::SummaryLayer;

/// The field that tells the kind of a model; absent for a Perceiver.
pub(crate) const TYPE: &str = "type";

/// The configuration of a model of any kind: a Perceiver, a Perceiver IO of transformers, or a
/// model of a program's own.
///
/// In files, the fields of the configuration follow a field `type`, which a Perceiver omits:
///
/// ```
/// use perceiver_model::{Architecture, ModelConfig, PerceiverConfig};
///
/// let config: ModelConfig = serde_json::from_str(r#"{"type": "perceiver-io", "num_latents": 64}"#).unwrap();
/// assert_eq!(config.name(), "perceiver-io");
/// let config = ModelConfig::from(PerceiverConfig::default());
/// assert_eq!(config.perceiver().unwrap().latent_dim, 256);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum ModelConfig {
    /// A Perceiver of the Keras example.
    Perceiver(PerceiverConfig),
    /// A Perceiver IO image classifier of transformers.
    PerceiverIo(PerceiverIoConfig),
    /// A model of a program's own; see [`ModelConfig::custom`].
    Custom(CustomModel),
}

impl ModelConfig {
    /// The names of the built-in kinds of models.
    pub const TYPES: [&'static str; 2] = ["perceiver", "perceiver-io"];

    /// Creates the configuration of a model of a program's own.
    pub fn custom(architecture: impl Architecture) -> Self {
        Self::Custom(CustomModel::new(architecture))
    }

    /// Returns the configuration of a Perceiver, if it is one.
    pub fn perceiver(&self) -> Option<&PerceiverConfig> {
        match self {
            Self::Perceiver(config) => Some(config),
            _ => None,
        }
    }

    /// Returns the configuration of a Perceiver for changes, if it is one.
    pub fn perceiver_mut(&mut self) -> Option<&mut PerceiverConfig> {
        match self {
            Self::Perceiver(config) => Some(config),
            _ => None,
        }
    }

    /// Returns the configuration of a Perceiver IO, if it is one.
    pub fn perceiver_io(&self) -> Option<&PerceiverIoConfig> {
        match self {
            Self::PerceiverIo(config) => Some(config),
            _ => None,
        }
    }
}

impl Default for ModelConfig {
    /// Returns the Perceiver of the Keras example.
    fn default() -> Self {
        PerceiverConfig::default().into()
    }
}

impl From<PerceiverConfig> for ModelConfig {
    fn from(config: PerceiverConfig) -> Self {
        Self::Perceiver(config)
    }
}

impl From<PerceiverIoConfig> for ModelConfig {
    fn from(config: PerceiverIoConfig) -> Self {
        Self::PerceiverIo(config)
    }
}

/// Evaluates an expression for the configuration of any kind.
macro_rules! for_each_kind {
    ($self:expr, $config:ident => $value:expr) => {
        match $self {
            ModelConfig::Perceiver($config) => $value,
            ModelConfig::PerceiverIo($config) => $value,
            ModelConfig::Custom($config) => $value,
        }
    };
}

impl Architecture for ModelConfig {
    type Model = Box<dyn Classifier>;

    fn name(&self) -> &str {
        for_each_kind!(self, config => config.name())
    }

    fn image_size(&self) -> usize {
        for_each_kind!(self, config => config.image_size())
    }

    fn channels(&self) -> usize {
        for_each_kind!(self, config => config.channels())
    }

    fn num_classes(&self) -> usize {
        for_each_kind!(self, config => config.num_classes())
    }

    fn with_num_classes(self, classes: usize) -> Self {
        match self {
            Self::Perceiver(config) => config.with_num_classes(classes).into(),
            Self::PerceiverIo(config) => config.with_num_classes(classes).into(),
            Self::Custom(config) => Self::Custom(config.with_num_classes(classes)),
        }
    }

    fn validate(&self) -> Result<()> {
        for_each_kind!(self, config => config.validate())
    }

    fn build(&self, vb: VarBuilder) -> Result<Self::Model> {
        Ok(match self {
            Self::Perceiver(config) => Box::new(config.build(vb)?),
            Self::PerceiverIo(config) => Box::new(config.build(vb)?),
            Self::Custom(config) => config.build(vb)?,
        })
    }

    fn build_for_inference(&self, vb: VarBuilder) -> Result<Self::Model> {
        Ok(match self {
            Self::Perceiver(config) => Box::new(config.build_for_inference(vb)?),
            Self::PerceiverIo(config) => Box::new(config.build_for_inference(vb)?),
            Self::Custom(config) => config.build_for_inference(vb)?,
        })
    }

    fn is_buffer(&self, name: &str) -> bool {
        for_each_kind!(self, config => config.is_buffer(name))
    }

    fn is_unused(&self, name: &str) -> bool {
        for_each_kind!(self, config => config.is_unused(name))
    }

    fn head(&self) -> &'static str {
        for_each_kind!(self, config => config.head())
    }

    fn layers(&self) -> Vec<SummaryLayer> {
        for_each_kind!(self, config => config.layers())
    }

    fn least_values_per_image(&self) -> u64 {
        for_each_kind!(self, config => config.least_values_per_image())
    }

    fn resized_positions(&self, from: &Self) -> Option<(usize, usize)> {
        match (self, from) {
            (Self::Perceiver(to), Self::Perceiver(from)) => to.resized_positions(from),
            (Self::PerceiverIo(to), Self::PerceiverIo(from)) => to.resized_positions(from),
            _ => None,
        }
    }

    fn adapt(&self, from: &Self, name: &str, weight: &Tensor) -> Result<Tensor> {
        match (self, from) {
            (Self::Perceiver(to), Self::Perceiver(from)) => to.adapt(from, name, weight),
            (Self::PerceiverIo(to), Self::PerceiverIo(from)) => to.adapt(from, name, weight),
            _ => Ok(weight.clone()),
        }
    }
}

/// A configuration after its kind.
#[derive(Serialize)]
struct Tagged<'a, T> {
    r#type: &'a str,
    #[serde(flatten)]
    config: &'a T,
}

impl Serialize for ModelConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Perceiver(config) => config.serialize(serializer),
            Self::PerceiverIo(config) => {
                let r#type = self.name();
                Tagged { r#type, config }.serialize(serializer)
            }
            Self::Custom(config) => config.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ModelConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let mut fields = Map::deserialize(deserializer)?;
        let kind = match fields.remove(TYPE) {
            None => Self::TYPES[0].to_string(),
            Some(Value::String(kind)) => kind,
            Some(other) => {
                return Err(de::Error::custom(format!(
                    "{TYPE}: expected a string, found {other}"
                )));
            }
        };
        let value = || Value::Object(fields.clone());
        let config = match kind.as_str() {
            "perceiver" => serde_json::from_value(value()).map(Self::Perceiver),
            "perceiver-io" => serde_json::from_value(value()).map(Self::PerceiverIo),
            _ => return Ok(Self::Custom(CustomModel::without_code(kind, fields))),
        };
        config.map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ModelError;

    #[test]
    fn every_kind_survives_json() {
        let io = PerceiverIoConfig {
            num_latents: 5,
            num_labels: Some(3),
            ..PerceiverIoConfig::default()
        };
        for config in [ModelConfig::default(), io.into()] {
            let text = serde_json::to_string(&config).unwrap();
            let again: ModelConfig = serde_json::from_str(&text).unwrap();
            assert_eq!(again, config);
        }
        let perceiver = serde_json::to_value(ModelConfig::default()).unwrap();
        assert_eq!(
            perceiver,
            serde_json::to_value(PerceiverConfig::default()).unwrap()
        );
    }

    #[test]
    fn unknown_kinds_are_kept_and_cannot_be_built() {
        let text = r#"{"type":"resnet","depth":18}"#;
        let config: ModelConfig = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&config).unwrap(), text);
        let error = config.validate().unwrap_err();
        assert!(matches!(&error, ModelError::UnknownModel { found } if found == "resnet"));
        assert!(
            error.to_string().contains("perceiver, perceiver-io"),
            "{error}"
        );
    }

    #[test]
    fn wrong_fields_are_errors_by_name() {
        let error = serde_json::from_str::<ModelConfig>(r#"{"latents": 3}"#).unwrap_err();
        assert!(
            error.to_string().contains("unknown field `latents`"),
            "{error}"
        );
        let error = serde_json::from_str::<ModelConfig>(r#"{"type": 3}"#).unwrap_err();
        assert!(
            error.to_string().contains("type: expected a string"),
            "{error}"
        );
    }
}
