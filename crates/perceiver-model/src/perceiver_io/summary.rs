//! Multiply-adds and memory of a Perceiver IO model by layer, for the model summary and for what a
//! training takes at least.

use crate::perceiver_io::config::PerceiverIoConfig;
use crate::perceiver_io::conv_stem;
use crate::perceiver_io::kind::{InputKind, LEARNED_CHANNELS, STEM_CHANNELS};
use crate::perceiver_io::layer::LayerSizes;
use crate::summary::SummaryLayer;

/// Returns the layers of a model in forward order: name (the common prefix of its parameters),
/// output shape without the batch, and multiply-adds per image of `image_size` x `image_size`
/// pixels, over all blocks, with each attention in the form of a model for inference.
///
/// The projection of learned positions counts nothing: it is computed once for all images.
pub(crate) fn layers(config: &PerceiverIoConfig, image_size: usize) -> Vec<SummaryLayer> {
    let kind = config.input;
    let (width, latents) = (config.d_latents, config.num_latents);
    let tokens = tokens(kind, image_size);
    let array = vec![latents, width];
    let mut rows = input_rows(kind, image_size);
    let mut add = |name: &str, output_shape: Vec<usize>, multiply_adds: u64, repeats: usize| {
        rows.push(SummaryLayer {
            name: format!("perceiver.{name}"),
            output_shape,
            multiply_adds,
            repeats,
        });
    };
    add("embeddings", array.clone(), 0, 1);
    let cross = layer_cost(&config.encoder_layer(kind), latents, tokens);
    add("encoder.cross_attention", array.clone(), cross, 1);
    let own = layer_cost(&config.self_layer(), latents, latents);
    let own = own.saturating_mul(config.num_blocks as u64);
    for layer in 0..config.num_self_attends_per_block {
        let name = format!("encoder.self_attends.{layer}");
        add(&name, array.clone(), own, config.num_blocks);
    }
    let decoder = "decoder.decoder";
    let query = format!("{decoder}.output_position_encodings");
    add(&query, vec![1, width], 0, 1);
    let read = layer_cost(&config.decoder_layer(), 1, latents);
    let layer = format!("{decoder}.decoding_cross_attention");
    add(&layer, vec![1, width], read, 1);
    let labels = config.num_labels();
    let head = format!("{decoder}.final_layer");
    add(&head, vec![labels], (width * labels) as u64, 1);
    rows
}

/// Returns the least number of values that an image of `image_size` x `image_size` pixels keeps for
/// the backward pass: its tokens, and the latents after every layer.
pub(crate) fn least_values(config: &PerceiverIoConfig, image_size: usize) -> u64 {
    let kind = config.input;
    let layers = 1 + config.num_blocks * config.num_self_attends_per_block;
    let tokens = tokens(kind, image_size) * kind.token_width();
    let latents = (config.num_latents * config.d_latents) as u64;
    (tokens as u64).saturating_add(latents.saturating_mul(layers as u64))
}

/// Returns the number of tokens of an image of `image_size` x `image_size` pixels.
fn tokens(kind: InputKind, image_size: usize) -> usize {
    let side = match kind {
        InputKind::Learned | InputKind::Fourier => image_size,
        InputKind::Conv => conv_stem::cost(image_size).map_or(0, |(side, _)| side),
    };
    side * side
}

/// Returns the rows of the input preprocessor. Fourier positions and pixels have no parameters, but
/// tokens.
fn input_rows(kind: InputKind, image_size: usize) -> Vec<SummaryLayer> {
    let tokens = tokens(kind, image_size);
    let row = |name: &str, output_shape: Vec<usize>, multiply_adds: u64| SummaryLayer {
        name: format!("perceiver.input_preprocessor{name}"),
        output_shape,
        multiply_adds,
        repeats: 1,
    };
    match kind {
        InputKind::Learned => {
            let shape = || vec![tokens, LEARNED_CHANNELS];
            let features = (tokens * 3 * LEARNED_CHANNELS) as u64;
            vec![
                row(".convnet_1x1", shape(), features),
                row(".position_embeddings", shape(), 0),
                row(".positions_projection", shape(), 0),
            ]
        }
        InputKind::Fourier => vec![row("", vec![tokens, kind.token_width()], 0)],
        InputKind::Conv => {
            let (side, cost) = conv_stem::cost(image_size).unwrap_or_default();
            vec![row(".convnet", vec![side, side, STEM_CHANNELS], cost)]
        }
    }
}

/// Returns the multiply-adds of a layer that reads `tokens` by `queries`: attention and MLP.
fn layer_cost(layer: &LayerSizes, queries: usize, tokens: usize) -> u64 {
    let attention = attention_cost(layer, [queries, tokens], layer.has_wide_heads());
    let mlp = [queries, 2, layer.width, layer.hidden].map(|size| size as u128);
    let all = attention + mlp.iter().product::<u128>();
    u64::try_from(all).unwrap_or(u64::MAX)
}

/// Returns the multiply-adds of an attention in either form, with the projections before and after
/// it. In absorbed form the products of weights are known.
fn attention_cost(layer: &LayerSizes, counts: [usize; 2], is_absorbed: bool) -> u128 {
    let [queries, tokens] = counts.map(|count| count as u128);
    let source = layer.tokens.unwrap_or(layer.width) as u128;
    let width = layer.width as u128;
    if is_absorbed {
        let inner = layer.heads as u128 * source;
        return 2 * queries * inner * (width + tokens);
    }
    let [keys, values] = layer.inner.map(|inner| inner as u128);
    let projections = queries * width + tokens * source;
    (projections + queries * tokens) * (keys + values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(input: InputKind) -> PerceiverIoConfig {
        PerceiverIoConfig {
            input,
            num_latents: 512,
            d_latents: 1024,
            num_blocks: 8,
            num_self_attends_per_block: 6,
            num_cross_attention_heads: 1,
            image_size: 224,
            num_labels: Some(1000),
            ..PerceiverIoConfig::default()
        }
    }

    const KINDS: [InputKind; 3] = [InputKind::Learned, InputKind::Fourier, InputKind::Conv];

    /// Tenths of billions, rounded.
    fn tenths(cost: u128) -> u128 {
        (cost + 50_000_000) / 100_000_000
    }

    /// The figures of the paper's table for two of the models are twice the first total: 407 and 369
    /// billion operations.
    #[test]
    fn published_models_have_the_known_costs() {
        for (kind, direct, absorbed, all_direct, all) in [
            (InputKind::Learned, 542, 279, 2357, 2084),
            (InputKind::Fourier, 216, 148, 2031, 1952),
            (InputKind::Conv, 30, 24, 1846, 1829),
        ] {
            let config = published(kind);
            let rows = layers(&config, 224);
            let cost = |layer: &str| {
                let found = rows.iter().find(|row| row.name.ends_with(layer));
                u128::from(found.unwrap().multiply_adds)
            };
            assert_eq!(
                tenths(cost("encoder.cross_attention")),
                absorbed,
                "{kind:?}"
            );
            assert_eq!(cost("self_attends.5"), 8 * 3_758_096_384);
            assert_eq!(cost("decoding_cross_attention"), 5_242_880);
            let total: u128 = rows.iter().map(|row| u128::from(row.multiply_adds)).sum();
            assert_eq!(tenths(total), all, "{kind:?}");

            let tokens = tokens(kind, 224);
            let attentions = [
                (config.encoder_layer(kind), [512, tokens]),
                (config.decoder_layer(), [1, 512]),
            ];
            let more = attentions.map(|(layer, counts)| {
                attention_cost(&layer, counts, false) - attention_cost(&layer, counts, true)
            });
            let cross = cost("encoder.cross_attention") + more[0];
            assert_eq!(tenths(cross), direct, "{kind:?}");
            assert_eq!(tenths(total + more[0] + more[1]), all_direct, "{kind:?}");
        }
    }

    #[test]
    fn every_parameter_belongs_to_one_row() {
        for kind in KINDS {
            let config = published(kind);
            let rows = layers(&config, 224);
            for name in config.tensor_shapes().unwrap().keys() {
                let belongs = |row: &&SummaryLayer| name.starts_with(&format!("{}.", row.name));
                assert_eq!(rows.iter().filter(belongs).count(), 1, "{name}");
            }
        }
    }

    #[test]
    fn shapes_are_those_of_the_model() {
        let shape = |kind, row: usize| layers(&published(kind), 224)[row].output_shape.clone();
        assert_eq!(shape(InputKind::Learned, 0), [50_176, 256]);
        assert_eq!(shape(InputKind::Fourier, 0), [50_176, 261]);
        assert_eq!(shape(InputKind::Conv, 0), [55, 55, 64]);
        assert_eq!(shape(InputKind::Conv, 1), [512, 1024]);
        let rows = layers(&published(InputKind::Conv), 3); // too small for a token
        assert_eq!(rows[0].output_shape, [0, 0, 64]);
    }

    #[test]
    fn images_keep_tokens_and_latents_for_the_backward_pass() {
        let latents = 512 * 1024 * 49;
        for (kind, tokens) in KINDS
            .into_iter()
            .zip([50_176 * 512, 50_176 * 261, 3025 * 322])
        {
            assert_eq!(least_values(&published(kind), 224), tokens + latents);
        }
    }
}
