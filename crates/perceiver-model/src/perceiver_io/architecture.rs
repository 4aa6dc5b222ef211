//! Perceiver IO as an [`Architecture`].

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use perceiver_ops::Mode;

use crate::architecture::Architecture;
use crate::architecture::model_config::ModelConfig;
use crate::classifier::Classifier;
use crate::error::Result;
use crate::hooks::{Features, Probe};
use crate::perceiver_io::PerceiverIo;
use crate::perceiver_io::config::PerceiverIoConfig;
use crate::perceiver_io::kind::InputKind;
use crate::perceiver_io::learned_positions::resize_position_table;
use crate::perceiver_io::{names, summary};
use crate::summary::SummaryLayer;

impl Architecture for PerceiverIoConfig {
    type Model = PerceiverIo;

    fn name(&self) -> &str {
        ModelConfig::TYPES[1]
    }

    fn image_size(&self) -> usize {
        self.image_size
    }

    fn num_classes(&self) -> usize {
        self.num_labels()
    }

    fn with_num_classes(self, classes: usize) -> Self {
        self.with_num_labels(classes)
    }

    fn validate(&self) -> Result<()> {
        self.validate()
    }

    fn build(&self, vb: VarBuilder) -> Result<PerceiverIo> {
        PerceiverIo::new(self, vb)
    }

    fn build_for_inference(&self, vb: VarBuilder) -> Result<PerceiverIo> {
        PerceiverIo::new(self, vb)?.folded()
    }

    fn layers(&self) -> Vec<SummaryLayer> {
        summary::layers(self, self.image_size)
    }

    fn least_values_per_image(&self) -> u64 {
        summary::least_values(self, self.image_size)
    }

    /// Positions are learned for the pixels of one image size.
    fn resized_positions(&self, from: &Self) -> Option<(usize, usize)> {
        let sides = (from.image_size, self.image_size);
        (self.input == InputKind::Learned && sides.0 != sides.1).then_some(sides)
    }

    fn adapt(&self, from: &Self, name: &str, weight: &Tensor) -> Result<Tensor> {
        match self.resized_positions(from) {
            Some((from, to)) if name == names::POSITION_TABLE => {
                Ok(resize_position_table(weight, from, to)?)
            }
            _ => Ok(weight.clone()),
        }
    }

    fn is_buffer(&self, name: &str) -> bool {
        names::is_buffer(name)
    }

    fn is_unused(&self, name: &str) -> bool {
        names::is_unused(name)
    }

    fn head(&self) -> &'static str {
        "perceiver.decoder.decoder.final_layer."
    }
}

impl Classifier for PerceiverIo {
    fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        self.forward(images, mode)
    }

    fn num_classes(&self) -> usize {
        self.config().num_labels()
    }

    fn forward_probed(&self, images: &Tensor, mode: Mode, probe: &mut Probe) -> Result<Tensor> {
        self.forward_probed(images, mode, probe)
    }

    fn features(&self, images: &Tensor, features: Features) -> Result<Tensor> {
        self.features(images, features)
    }

    fn dtype(&self) -> DType {
        self.dtype()
    }

    /// Every pixel may be a token.
    fn values_per_image(&self) -> u64 {
        summary::least_values(self.config(), self.config().image_size)
    }

    fn set_activation_checkpointing(&mut self, on: bool) {
        self.set_recomputation(on);
    }

    fn token_grid(&self, height: usize, width: usize) -> Option<[usize; 2]> {
        self.token_grid(height, width)
    }
}
