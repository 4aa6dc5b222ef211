//! The model summary: parameters and multiply-adds by layer, as Keras's `summary` shows it.

use crate::attention::cross_attention::CrossAttention;
use crate::attention::form::{AttentionCost, AttentionForm};
use crate::attention::self_attention::SelfAttention;
use crate::config::PerceiverConfig;
use crate::config::sharing::WeightSet;
use crate::error::Result;
use crate::layers::stem::{KERNEL, STRIDE};
use crate::weights::parameters::specifications;

/// A layer of the summary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SummaryRow {
    /// Name of the layer: the common prefix of its parameters.
    pub layer: String,
    /// Shape of its output without the batch dimension.
    pub output_shape: Vec<usize>,
    /// Number of trainable values.
    pub parameters: usize,
    /// Multiply-adds per image in matrix products, over all iterations, with the cheaper form of
    /// attention.
    pub multiply_adds: u64,
}

/// The layers of an architecture, with parameters and multiply-adds.
///
/// ```
/// use perceiver_model::{PerceiverConfig, Summary};
///
/// let summary = Summary::new(&PerceiverConfig::default())?;
/// assert_eq!(summary.parameters(), 9_697_637);
/// # Ok::<(), perceiver_model::ModelError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The layers in forward order.
    pub rows: Vec<SummaryRow>,
}

impl Summary {
    /// Counts the parameters and multiply-adds of an architecture.
    ///
    /// # Errors
    /// When the configuration is invalid.
    pub fn new(config: &PerceiverConfig) -> Result<Self> {
        let parameters: Vec<(String, usize)> = specifications(config)?
            .into_iter()
            .map(|(name, (shape, _))| (name, shape.elem_count()))
            .collect();
        let rows = costs(config)
            .into_iter()
            .map(|(layer, output_shape, multiply_adds)| SummaryRow {
                parameters: parameters
                    .iter()
                    .filter(|(name, _)| belongs_to(name, &layer))
                    .map(|(_, count)| count)
                    .sum(),
                layer,
                output_shape,
                multiply_adds,
            })
            .collect();
        Ok(Self { rows })
    }

    /// Returns every attention layer with the form it is computed in: the one with fewer
    /// multiply-adds.
    pub fn attention_forms(config: &PerceiverConfig) -> Vec<(String, AttentionForm)> {
        let cross = WeightSet::of_cross_attention(config);
        let cross = cross.into_iter().map(|set| {
            let cost = CrossAttention::cost(config, set.iterations);
            (set.name("cross_attention"), cost.cheaper_form())
        });
        let own = SelfAttention::cost(config).cheaper_form();
        cross.chain([("transformer".to_string(), own)]).collect()
    }

    /// Returns the total number of trainable values.
    pub fn parameters(&self) -> usize {
        self.rows.iter().map(|row| row.parameters).sum()
    }

    /// Returns the name of the layer that a parameter belongs to.
    ///
    /// ```
    /// # use perceiver_model::{PerceiverConfig, Summary};
    /// let summary = Summary::new(&PerceiverConfig::default())?;
    /// assert_eq!(summary.layer_of("transformer.1.attention.query.weight"), Some("transformer.1"));
    /// # Ok::<(), perceiver_model::ModelError>(())
    /// ```
    pub fn layer_of(&self, parameter: &str) -> Option<&str> {
        let mut layers = self.rows.iter().map(|row| row.layer.as_str());
        layers.find(|layer| belongs_to(parameter, layer))
    }

    /// Returns the multiply-adds of one image's forward pass.
    pub fn multiply_adds(&self) -> u64 {
        self.rows.iter().map(|row| row.multiply_adds).sum()
    }
}

fn belongs_to(parameter: &str, layer: &str) -> bool {
    parameter
        .strip_prefix(layer)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Returns name, output shape and multiply-adds of every row.
fn costs(config: &PerceiverConfig) -> Vec<(String, Vec<usize>, u64)> {
    let (latents, tokens) = (config.latent_dim, config.num_patches());
    let width = config.projection_dim;
    let array = vec![latents, width];
    let ffn = (latents as u64) * feed_forward_cost(width, &config.ffn_units);
    let product = |m: usize, k: usize, n: usize| (m * k * n) as u64;
    let cost = |attention: AttentionCost| attention.multiply_adds(attention.cheaper_form());
    let attention = cost(SelfAttention::cost(config));

    let mut rows = stem_costs(config);
    let encoder = product(tokens, config.patch_len(), width);
    rows.push(("encoder".to_string(), vec![tokens, width], encoder));
    rows.push(("latents".to_string(), array.clone(), 0));
    for set in WeightSet::of_cross_attention(config) {
        let reads = cost(CrossAttention::cost(config, set.iterations));
        let cross = reads + set.iterations as u64 * ffn;
        rows.push((set.name("cross_attention"), array.clone(), cross));
    }
    for set in WeightSet::of_transformer(config) {
        for block in 0..config.num_transformer_blocks {
            let name = format!("{}.{block}", set.name("transformer"));
            let cost = set.iterations as u64 * (attention + ffn);
            rows.push((name, array.clone(), cost));
        }
    }
    if config.norm_pooled {
        rows.push(("norm_pooled".to_string(), vec![width], 0));
    }
    let head = feed_forward_cost(width, &config.classifier_units);
    rows.push(("head".to_string(), vec![config.num_classes()], head));
    rows
}

/// Returns the rows of the stem's layers.
fn stem_costs(config: &PerceiverConfig) -> Vec<(String, Vec<usize>, u64)> {
    let (mut side, mut channels) = (config.image_size, config.channels);
    let mut rows = Vec::new();
    for (index, &units) in config.stem_units.iter().enumerate() {
        side /= STRIDE;
        let cost = (side * side * KERNEL * KERNEL * channels * units) as u64;
        rows.push((format!("stem.{index}"), vec![side, side, units], cost));
        channels = units;
    }
    rows
}

/// Returns the multiply-adds of a feed-forward network per vector.
fn feed_forward_cost(inputs: usize, units: &[usize]) -> u64 {
    let inputs_of_layers = std::iter::once(&inputs).chain(units);
    inputs_of_layers
        .zip(units)
        .map(|(i, o)| (i * o) as u64)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_counts_equal_keras() {
        let summary = Summary::new(&PerceiverConfig::default()).unwrap();
        let counts: Vec<_> = summary
            .rows
            .iter()
            .map(|r| (r.layer.as_str(), r.parameters))
            .collect();
        // Two norms, four attention projections and two dense layers with biases.
        let block = 2_236_160;
        assert_eq!(
            counts,
            [
                ("encoder", 12 * 256 + 256 + 1024 * 256),
                ("latents", 256 * 256),
                ("cross_attention", 330_497),
                ("transformer.0", block),
                ("transformer.1", block),
                ("transformer.2", block),
                ("transformer.3", block),
                ("head", 256 * 256 + 256 + 256 * 100 + 100),
            ]
        );
        assert_eq!(summary.parameters(), 9_697_637);
    }

    #[test]
    fn attention_takes_the_form_with_fewer_products() {
        let cost = SelfAttention::cost(&PerceiverConfig::default());
        assert_eq!(cost.cheaper_form(), AttentionForm::Absorbed);
        assert_eq!(
            cost.multiply_adds(AttentionForm::Absorbed),
            4 * 8 * 256 * 256 * 256
        );
        assert_eq!(
            cost.multiply_adds(AttentionForm::Direct),
            6 * 8 * 256 * 256 * 256
        );
        let narrow = PerceiverConfig {
            head_dim: 32,
            ..PerceiverConfig::default()
        };
        assert_eq!(
            SelfAttention::cost(&narrow).cheaper_form(),
            AttentionForm::Direct
        );
    }
}
