//! Names, shapes and initializers of the tensors of a Perceiver IO checkpoint, as transformers
//! names them.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::perceiver_io::config::PerceiverIoConfig;
use crate::perceiver_io::kind::InputKind;
use crate::weights::parameters::specifications;

impl PerceiverIoConfig {
    /// Returns the shape of every tensor of a checkpoint by name, in sorted order: the parameters,
    /// and the running statistics of the batch norm.
    ///
    /// # Errors
    /// When the configuration is invalid.
    pub fn tensor_shapes(&self) -> Result<BTreeMap<String, Vec<usize>>> {
        let shapes = specifications(self)?.into_iter();
        Ok(shapes
            .map(|(name, (shape, _))| (name, shape.into_dims()))
            .collect())
    }

    /// Returns the name of a tensor that this model has no use for and that transformers misses in a
    /// checkpoint without it: PyTorch's count of the batches that a batch norm has seen, an integer.
    pub fn batch_count(&self) -> Option<&'static str> {
        let name = "perceiver.input_preprocessor.convnet.batchnorm.num_batches_tracked";
        (self.input == InputKind::Conv).then_some(name)
    }

    /// Returns the number of trainable values.
    ///
    /// # Errors
    /// When the configuration is invalid.
    pub fn parameter_count(&self) -> Result<usize> {
        let shapes = self.tensor_shapes()?.into_iter();
        let parameters = shapes.filter(|(name, _)| !is_buffer(name));
        Ok(parameters
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum())
    }
}

/// The name of the learned positions.
pub(crate) const POSITION_TABLE: &str =
    "perceiver.input_preprocessor.position_embeddings.position_embeddings";

/// Returns whether a tensor is not trained: the running statistics of a batch norm.
pub(crate) fn is_buffer(name: &str) -> bool {
    name.ends_with(".running_mean") || name.ends_with(".running_var")
}

/// Returns whether a tensor of a checkpoint has no use here: PyTorch's count of the batches that a
/// batch norm has seen.
pub(crate) fn is_unused(name: &str) -> bool {
    name.ends_with(".num_batches_tracked")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(kind: InputKind) -> PerceiverIoConfig {
        PerceiverIoConfig {
            input: kind,
            num_latents: 512,
            d_latents: 1024,
            num_blocks: 8,
            num_self_attends_per_block: 6,
            num_cross_attention_heads: 1,
            image_size: if kind == InputKind::Learned { 224 } else { 56 },
            num_labels: Some(1000),
            ..PerceiverIoConfig::default()
        }
    }

    #[test]
    fn published_models_have_the_known_tensors() {
        for (kind, values, tensors) in [
            (InputKind::Learned, 62_255_848, 141),
            (InputKind::Fourier, 48_440_627, 136),
            (InputKind::Conv, 48_646_522, 141), // transformers has num_batches_tracked too
        ] {
            let config = published(kind);
            assert_eq!(config.parameter_count().unwrap(), values, "{kind:?}");
            let shapes = config.tensor_shapes().unwrap();
            assert_eq!(shapes.len(), tensors, "{kind:?}");
            let key = "perceiver.encoder.cross_attention.attention.self.key.weight";
            assert_eq!(shapes[key], [kind.token_width(); 2]);
            let name = "perceiver.encoder.self_attends.5.mlp.dense2.bias";
            assert_eq!(shapes[name], [1024]);
        }
    }

    #[test]
    fn widths_of_queries_and_values_can_be_set() {
        let config = PerceiverIoConfig {
            input: InputKind::Conv,
            d_latents: 32,
            qk_channels: Some(16),
            v_channels: Some(32),
            num_cross_attention_heads: 2,
            cross_attention_widening_factor: 3,
            ..PerceiverIoConfig::default()
        };
        let shapes = config.tensor_shapes().unwrap();
        let shape = |name: &str| shapes[&format!("perceiver.{name}")].clone();
        let cross = "encoder.cross_attention";
        let of_cross = |name: &str| shape(&format!("{cross}.{name}"));
        assert_eq!(of_cross("attention.self.query.weight"), [16, 32]);
        assert_eq!(of_cross("attention.self.key.weight"), [16, 322]);
        assert_eq!(of_cross("attention.self.value.weight"), [32, 322]);
        assert_eq!(of_cross("attention.output.dense.weight"), [32, 32]);
        assert_eq!(of_cross("mlp.dense1.weight"), [96, 32]);
        let key = "encoder.self_attends.0.attention.self.key.weight";
        assert_eq!(shape(key), [16, 32]);
        let decoder = "decoder.decoder.decoding_cross_attention.attention.self.key.weight";
        assert_eq!(shape(decoder), [32, 32]);
    }
}
