//! Architectures of other programs, as a recipe and a checkpoint hold them.

use std::fmt;
use std::sync::Arc;

use candle_nn::VarBuilder;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::architecture::Architecture;
use crate::architecture::model_config::TYPE;
use crate::classifier::Classifier;
use crate::error::{ModelError, Result};
use crate::summary::SummaryLayer;

/// A model of a program's own: its name and configuration, and how to build it, which only a
/// program that has the code knows.
#[derive(Clone, Debug)]
pub struct CustomModel {
    name: String,
    /// The configuration as JSON.
    config: Map<String, Value>,
    code: Option<Arc<dyn AnyArchitecture>>,
}

/// An [`Architecture`] of any type.
trait AnyArchitecture: fmt::Debug + Send + Sync {
    fn image_size(&self) -> usize;
    fn channels(&self) -> usize;
    fn num_classes(&self) -> usize;
    fn with_num_classes(&self, classes: usize) -> CustomModel;
    fn validate(&self) -> Result<()>;
    fn build(&self, vb: VarBuilder) -> Result<Box<dyn Classifier>>;
    fn build_for_inference(&self, vb: VarBuilder) -> Result<Box<dyn Classifier>>;
    fn is_buffer(&self, name: &str) -> bool;
    fn is_unused(&self, name: &str) -> bool;
    fn head(&self) -> &'static str;
    fn layers(&self) -> Vec<SummaryLayer>;
    fn least_values_per_image(&self) -> u64;
}

impl<A: Architecture> AnyArchitecture for A {
    fn image_size(&self) -> usize {
        Architecture::image_size(self)
    }
    fn channels(&self) -> usize {
        Architecture::channels(self)
    }
    fn num_classes(&self) -> usize {
        Architecture::num_classes(self)
    }
    fn with_num_classes(&self, classes: usize) -> CustomModel {
        CustomModel::new(Architecture::with_num_classes(self.clone(), classes))
    }
    fn validate(&self) -> Result<()> {
        Architecture::validate(self)
    }
    fn build(&self, vb: VarBuilder) -> Result<Box<dyn Classifier>> {
        Ok(Box::new(Architecture::build(self, vb)?))
    }
    fn build_for_inference(&self, vb: VarBuilder) -> Result<Box<dyn Classifier>> {
        Ok(Box::new(Architecture::build_for_inference(self, vb)?))
    }
    fn is_buffer(&self, name: &str) -> bool {
        Architecture::is_buffer(self, name)
    }
    fn is_unused(&self, name: &str) -> bool {
        Architecture::is_unused(self, name)
    }
    fn head(&self) -> &'static str {
        Architecture::head(self)
    }
    fn layers(&self) -> Vec<SummaryLayer> {
        Architecture::layers(self)
    }
    fn least_values_per_image(&self) -> u64 {
        Architecture::least_values_per_image(self)
    }
}

impl CustomModel {
    /// Wraps an architecture. A configuration that is no JSON object is kept as the field `config`.
    pub(crate) fn new(architecture: impl Architecture) -> Self {
        let config = match serde_json::to_value(&architecture) {
            Ok(Value::Object(fields)) => fields,
            Ok(Value::Null) | Err(_) => Map::new(),
            Ok(other) => Map::from_iter([("config".to_string(), other)]),
        };
        // TOML has no null.
        let config = config.into_iter().filter(|(_, value)| !value.is_null());
        Self {
            name: architecture.name().to_string(),
            config: config.collect(),
            code: Some(Arc::new(architecture)),
        }
    }

    /// Creates the model of a file, whose code is not here.
    pub(crate) fn without_code(name: String, config: Map<String, Value>) -> Self {
        Self {
            name,
            config,
            code: None,
        }
    }

    /// Returns the configuration as JSON.
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    fn code(&self) -> Result<&dyn AnyArchitecture> {
        self.code
            .as_deref()
            .ok_or_else(|| ModelError::UnknownModel {
                found: self.name.clone(),
            })
    }
}

/// Without the code, sizes are unknown and given as 0, and [`Architecture::validate`] fails.
impl Architecture for CustomModel {
    type Model = Box<dyn Classifier>;

    fn name(&self) -> &str {
        &self.name
    }

    fn image_size(&self) -> usize {
        self.code.as_ref().map_or(0, |code| code.image_size())
    }

    fn channels(&self) -> usize {
        self.code.as_ref().map_or(0, |code| code.channels())
    }

    fn num_classes(&self) -> usize {
        self.code.as_ref().map_or(0, |code| code.num_classes())
    }

    fn with_num_classes(self, classes: usize) -> Self {
        match &self.code {
            Some(code) => code.with_num_classes(classes),
            None => self,
        }
    }

    fn validate(&self) -> Result<()> {
        self.code()?.validate()
    }

    fn build(&self, vb: VarBuilder) -> Result<Self::Model> {
        self.code()?.build(vb)
    }

    fn build_for_inference(&self, vb: VarBuilder) -> Result<Self::Model> {
        self.code()?.build_for_inference(vb)
    }

    fn is_buffer(&self, name: &str) -> bool {
        self.code.as_ref().is_some_and(|code| code.is_buffer(name))
    }

    fn is_unused(&self, name: &str) -> bool {
        self.code.as_ref().is_some_and(|code| code.is_unused(name))
    }

    fn head(&self) -> &'static str {
        self.code.as_ref().map_or("head.", |code| code.head())
    }

    fn layers(&self) -> Vec<SummaryLayer> {
        let code = self.code.as_ref();
        code.map_or_else(Vec::new, |code| code.layers())
    }

    fn least_values_per_image(&self) -> u64 {
        let code = self.code.as_ref();
        code.map_or(0, |code| code.least_values_per_image())
    }
}

impl Serialize for CustomModel {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1 + self.config.len()))?;
        map.serialize_entry(TYPE, &self.name)?;
        for (field, value) in &self.config {
            map.serialize_entry(field, value)?;
        }
        map.end()
    }
}

impl PartialEq for CustomModel {
    /// Compares names and configurations.
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.config) == (&other.name, &other.config)
    }
}
