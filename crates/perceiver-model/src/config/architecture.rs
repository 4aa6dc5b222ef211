//! The Perceiver as an [`Architecture`].

use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::architecture::Architecture;
use crate::architecture::model_config::ModelConfig;
use crate::config::PerceiverConfig;
use crate::error::Result;
use crate::perceiver::Perceiver;
use crate::summary::{self, SummaryLayer};
use crate::weights::transfer;

impl Architecture for PerceiverConfig {
    type Model = Perceiver;

    fn name(&self) -> &str {
        ModelConfig::TYPES[0]
    }

    fn image_size(&self) -> usize {
        self.image_size
    }

    fn channels(&self) -> usize {
        self.channels
    }

    fn num_classes(&self) -> usize {
        self.num_classes()
    }

    fn with_num_classes(self, classes: usize) -> Self {
        self.with_num_classes(classes)
    }

    fn validate(&self) -> Result<()> {
        self.validate()
    }

    fn build(&self, vb: VarBuilder) -> Result<Perceiver> {
        Perceiver::new(self, vb)
    }

    fn build_for_inference(&self, vb: VarBuilder) -> Result<Perceiver> {
        Perceiver::new(self, vb)?.folded()
    }

    fn layers(&self) -> Vec<SummaryLayer> {
        summary::layers(self)
    }

    fn least_values_per_image(&self) -> u64 {
        summary::least_values_per_image(self)
    }

    fn resized_positions(&self, from: &Self) -> Option<(usize, usize)> {
        let sides = (from.tokens_per_side(), self.tokens_per_side());
        (sides.0 != sides.1).then_some(sides)
    }

    fn adapt(&self, from: &Self, name: &str, weight: &Tensor) -> Result<Tensor> {
        transfer::adapt(from, self, name, weight)
    }
}
