//! The model summary: parameters and multiply-adds by layer, as Keras's `summary` shows it.

use crate::architecture::Architecture;
use crate::attention::cross_attention::CrossAttention;
use crate::attention::form::{AttentionCost, AttentionForm};
use crate::attention::self_attention::SelfAttention;
use crate::config::PerceiverConfig;
use crate::config::sharing::WeightSet;
use crate::error::Result;
use crate::layers::stem;
use crate::weights::parameters::specifications;

/// A layer of an architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SummaryLayer {
    /// Name of the layer: the common prefix of its parameters.
    pub name: String,
    /// Shape of its output without the batch dimension; empty if unknown.
    pub output_shape: Vec<usize>,
    /// Multiply-adds per image in matrix products, with the cheaper form of attention; 0 if unknown.
    pub multiply_adds: u64,
    /// The number of times that the layer is applied in a forward pass.
    pub repeats: usize,
}

/// A row of the summary: a layer with its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SummaryRow {
    /// Name of the layer: the common prefix of its parameters.
    pub layer: String,
    /// Shape of its output without the batch dimension.
    pub output_shape: Vec<usize>,
    /// Number of values of its parameters.
    pub parameters: usize,
    /// Number of those that are trained; the others are frozen.
    pub trainable: usize,
    /// Multiply-adds per image in matrix products, over all iterations, with the cheaper form of
    /// attention.
    pub multiply_adds: u64,
    /// The number of times that the layer is applied in a forward pass.
    pub repeats: usize,
}

impl SummaryRow {
    /// Returns the size of the outputs for one image in f32, in bytes, over all times that the layer
    /// is applied; 0 if the shape is unknown.
    pub fn output_bytes(&self) -> u64 {
        let values = match self.output_shape[..] {
            [] => 0,
            _ => self.output_shape.iter().product::<usize>() as u64,
        };
        4 * values * self.repeats as u64
    }
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
    pub fn new(architecture: &impl Architecture) -> Result<Self> {
        Self::with_frozen(architecture, |_| false)
    }

    /// [`Summary::new`], where the parameters whose names `is_frozen` accepts are not trained.
    ///
    /// # Errors
    /// When the configuration is invalid.
    pub fn with_frozen(
        architecture: &impl Architecture,
        is_frozen: impl Fn(&str) -> bool,
    ) -> Result<Self> {
        let specifications = specifications(architecture)?.into_iter();
        let parameters: Vec<(String, usize)> = specifications
            .filter(|(name, _)| !architecture.is_buffer(name))
            .map(|(name, (shape, _))| (name, shape.elem_count()))
            .collect();
        let mut layers = architecture.layers();
        if layers.is_empty() {
            layers = layers_by_name(&parameters);
        }
        let rows = layers.into_iter().map(|layer| {
            let own = parameters
                .iter()
                .filter(|(name, _)| belongs_to(name, &layer.name));
            let trainable = own.clone().filter(|(name, _)| !is_frozen(name));
            SummaryRow {
                parameters: own.map(|(_, count)| count).sum(),
                trainable: trainable.map(|(_, count)| count).sum(),
                layer: layer.name,
                output_shape: layer.output_shape,
                multiply_adds: layer.multiply_adds,
                repeats: layer.repeats,
            }
        });
        Ok(Self {
            rows: rows.collect(),
        })
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

    /// Returns the total number of values that are trained.
    pub fn trainable(&self) -> usize {
        self.rows.iter().map(|row| row.trainable).sum()
    }

    /// Returns the size of all outputs for one image in f32, in bytes.
    pub fn output_bytes(&self) -> u64 {
        self.rows.iter().map(SummaryRow::output_bytes).sum()
    }

    /// Returns the total number of values of the parameters.
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

/// Returns the layers of an architecture that does not list them: the names before the last dot.
fn layers_by_name(parameters: &[(String, usize)]) -> Vec<SummaryLayer> {
    let mut layers: Vec<SummaryLayer> = Vec::new();
    for (name, _) in parameters {
        let layer = name
            .rsplit_once('.')
            .map_or(name.as_str(), |(layer, _)| layer);
        if layers.iter().all(|known| known.name != layer) {
            layers.push(SummaryLayer {
                name: layer.to_string(),
                output_shape: Vec::new(),
                multiply_adds: 0,
                repeats: 1,
            });
        }
    }
    layers
}

/// Returns the layers of a Perceiver.
pub(crate) fn layers(config: &PerceiverConfig) -> Vec<SummaryLayer> {
    let (latents, tokens) = (config.latent_dim, config.num_patches());
    let width = config.projection_dim;
    let array = vec![latents, width];
    let ffn = (latents as u64) * feed_forward_cost(width, &config.ffn_units);
    let product = |m: usize, k: usize, n: usize| (m * k * n) as u64;
    let cost = |attention: AttentionCost| attention.multiply_adds(attention.cheaper_form());
    let attention = cost(SelfAttention::cost(config));
    let layer = |name: String, output_shape: Vec<usize>, multiply_adds: u64| SummaryLayer {
        name,
        output_shape,
        multiply_adds,
        repeats: 1,
    };

    let mut layers = stem_layers(config);
    let encoder = product(tokens, config.patch_len(), width);
    layers.push(layer("encoder".to_string(), vec![tokens, width], encoder));
    layers.push(layer("latents".to_string(), array.clone(), 0));
    for set in WeightSet::of_cross_attention(config) {
        let reads = cost(CrossAttention::cost(config, set.iterations));
        let cross = reads + set.iterations as u64 * ffn;
        layers.push(SummaryLayer {
            repeats: set.iterations,
            ..layer(set.name("cross_attention"), array.clone(), cross)
        });
    }
    for set in WeightSet::of_transformer(config) {
        for block in 0..config.num_transformer_blocks {
            let name = format!("{}.{block}", set.name("transformer"));
            let cost = set.iterations as u64 * (attention + ffn);
            layers.push(SummaryLayer {
                repeats: set.iterations,
                ..layer(name, array.clone(), cost)
            });
        }
    }
    if config.norm_pooled {
        layers.push(layer("norm_pooled".to_string(), vec![width], 0));
    }
    let head = feed_forward_cost(width, &config.classifier_units);
    layers.push(layer("head".to_string(), vec![config.num_classes()], head));
    layers
}

/// Returns the layers of a Perceiver's stem.
fn stem_layers(config: &PerceiverConfig) -> Vec<SummaryLayer> {
    let layer = |(index, cost): (usize, stem::LayerCost)| SummaryLayer {
        name: format!("stem.{index}"),
        output_shape: vec![cost.side, cost.side, cost.units],
        multiply_adds: cost.multiply_adds() as u64,
        repeats: 1,
    };
    stem::costs(config).enumerate().map(layer).collect()
}

/// Returns the minimum number of values that the backward pass of a Perceiver needs of an image:
/// the tokens, and the latents after every layer.
pub(crate) fn least_values_per_image(config: &PerceiverConfig) -> u64 {
    let [tokens, latents, width, iterations, blocks] = [
        config.num_patches(),
        config.latent_dim,
        config.projection_dim,
        config.num_iterations,
        config.num_transformer_blocks,
    ]
    .map(|size| size as u64);
    let layers = iterations.saturating_mul(blocks.saturating_add(1));
    tokens
        .saturating_add(latents.saturating_mul(layers))
        .saturating_mul(width)
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
        assert_eq!(summary.trainable(), 9_697_637);
        // The tokens once; latents once, then twice the cross-attention and four blocks.
        let values = 1024 * 256 + 256 * 256 * (1 + 2 * 5) + 100;
        assert_eq!(summary.output_bytes(), 4 * values);
    }

    #[test]
    fn frozen_parameters_are_not_trainable() {
        let config = PerceiverConfig::default();
        let summary = Summary::with_frozen(&config, |name| name.starts_with("encoder."));
        let summary = summary.unwrap();
        assert_eq!(summary.rows[0].trainable, 0);
        let frozen = summary.rows[0].parameters;
        assert_eq!(summary.trainable(), summary.parameters() - frozen);
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
