//! Layer-wise learning-rate decay: factors on the learning rates of layers.

use std::collections::HashMap;

use perceiver_model::{Architecture, Parameters, Summary};

use crate::error::Result;

/// Returns the factor on the learning rate of every parameter: `decay` to the power of the number of
/// layers after that of the parameter, by the model summary. The classification head has 1, also
/// where it is a part of the last layer.
pub(crate) fn learning_rate_factors(
    architecture: &impl Architecture,
    parameters: &Parameters,
    decay: f64,
) -> Result<HashMap<String, f32>> {
    let summary = Summary::new(architecture)?;
    let layers: Vec<&str> = summary.rows.iter().map(|row| row.layer.as_str()).collect();
    let after = |name: &str| {
        if name.starts_with(architecture.head()) {
            return 0;
        }
        let layer = summary.layer_of(name);
        let at = layers.iter().position(|known| Some(*known) == layer);
        at.map_or(0, |at| layers.len() - 1 - at)
    };
    let factor = |name: &str| decay.powi(i32::try_from(after(name)).unwrap_or(i32::MAX)) as f32;
    let named = parameters.iter();
    Ok(named
        .map(|(name, _)| (name.to_string(), factor(name)))
        .collect())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use perceiver_model::PerceiverConfig;

    use super::*;

    #[test]
    fn early_layers_have_smaller_rates() {
        let config = PerceiverConfig {
            image_size: 8,
            latent_dim: 4,
            num_transformer_blocks: 2,
            ..PerceiverConfig::default()
        };
        let parameters = Parameters::from_seed(&config, 0, &Device::Cpu).unwrap();
        let factors = learning_rate_factors(&config, &parameters, 0.5).unwrap();
        // encoder, latents, cross_attention, transformer.0, transformer.1, head
        for (name, expected) in [
            ("encoder.positions", 0.03125),
            ("latents", 0.0625),
            ("cross_attention.query.weight", 0.125),
            ("transformer.0.attention.query.weight", 0.25),
            ("transformer.1.attention.query.weight", 0.5),
            ("head.0.weight", 1.0),
        ] {
            assert_eq!(factors.get(name), Some(&expected), "{name}");
        }
        assert_eq!(factors.len(), parameters.iter().count());
    }
}
