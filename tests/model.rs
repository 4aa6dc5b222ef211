//! Properties of the model beyond Keras's reference values: invariance to the order of tokens, as
//! the paper claims; distributions of initial parameters; dropout as the only difference between
//! training and inference.

#![allow(clippy::float_cmp)] // constants are exact

use candle_core::{D, Device, Tensor};
use candle_nn::ModuleT;
use perceiver_model::{Parameters, Perceiver, PerceiverConfig, patches};
use perceiver_ops::{Mode, RngKey, Tape};
use perceiver_tests::tensors::{distance, images, values};
use perceiver_train::{Gradients, cross_entropy};
use proptest::prelude::*;

fn small() -> PerceiverConfig {
    PerceiverConfig {
        image_size: 8,
        latent_dim: 5,
        projection_dim: 16,
        num_heads: 2,
        num_transformer_blocks: 1,
        ffn_units: vec![16],
        classifier_units: vec![7],
        ..PerceiverConfig::default()
    }
}

fn model(config: &PerceiverConfig, seed: u64) -> Perceiver {
    let parameters = Parameters::from_seed(config, seed, &Device::Cpu).unwrap();
    parameters.model(config).unwrap()
}

/// Returns a permutation of `0..len`, a function of `seed`.
fn permutation(len: usize, seed: u64) -> Tensor {
    let mut order: Vec<u32> = (0..len as u32).collect();
    order.sort_by_key(|&i| RngKey::new(seed).bits(u64::from(i)));
    Tensor::new(order, &Device::Cpu).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Section 3.1 of the paper: attention is invariant to the order of its inputs, so they must
    /// contain their positions.
    #[test]
    fn permuting_encoded_tokens_changes_nothing(
        (patch_size, heads, iterations) in (prop::sample::select(vec![1, 2, 4]), 1usize..4, 1usize..4),
        batch in 1usize..4,
        seed: u64,
    ) {
        let config = PerceiverConfig {
            patch_size,
            num_heads: heads,
            num_iterations: iterations,
            ..small()
        };
        let model = model(&config, seed);
        let data = model.encode(&images(&config, batch, seed)).unwrap(); // [batch, tokens, width]
        let permuted = data.index_select(&permutation(config.num_patches(), seed), 1).unwrap();
        let logits = |data| model.forward_encoded(data, Mode::Inference, &mut |_, _| {}).unwrap();
        let (before, after) = (logits(&data), logits(&permuted));
        let size = values(&before).iter().fold(1.0f32, |largest, v| largest.max(v.abs()));
        prop_assert!(distance(&before, &after) <= 1e-5 * size);
    }
}

#[test]
fn permuting_patches_before_their_positions_are_added_changes_the_logits() {
    let config = small();
    let model = model(&config, 1);
    let images = images(&config, 1, 1);
    let upside_down: Vec<u32> = (0..8).rev().collect();
    let upside_down = Tensor::new(upside_down, &Device::Cpu).unwrap();
    let flipped = images.index_select(&upside_down, 2).unwrap();
    let logits = |images| model.forward(images, Mode::Inference).unwrap();
    assert!(distance(&logits(&images), &logits(&flipped)) > 1e-3);
}

#[test]
fn attention_maps_are_distributions_over_the_tokens() {
    let config = small();
    let maps = model(&config, 2)
        .attention_maps(&images(&config, 3, 2))
        .unwrap();
    assert_eq!(maps.len(), config.num_iterations);
    for map in maps {
        assert_eq!(map.dims(), [3, config.latent_dim, config.num_patches()]);
        let sums = values(&map.sum(D::Minus1).unwrap());
        assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-5), "{sums:?}");
        assert!(values(&map).iter().all(|&p| p >= 0.0));
    }
}

#[test]
fn dropout_is_active_in_training_only_and_keyed() {
    let config = small();
    let (model, images) = (model(&config, 3), images(&config, 2, 3));
    let training = |seed| {
        let mode = Mode::Training(RngKey::new(seed));
        values(&model.forward(&images, mode).unwrap())
    };
    let inference = values(&model.forward(&images, Mode::Inference).unwrap());
    assert_eq!(training(1), training(1));
    assert_ne!(training(1), training(2));
    assert_ne!(training(1), inference);
    assert_eq!(values(&model.forward_t(&images, false).unwrap()), inference);
    let passes = [0, 1].map(|_| values(&model.forward_t(&images, true).unwrap()));
    assert_ne!(passes[0], passes[1], "every training pass has its own mask");
}

#[test]
fn an_image_has_the_same_logits_alone_and_in_a_batch() {
    let config = small();
    let (model, images) = (model(&config, 4), images(&config, 3, 4));
    let logits = |images: &Tensor| model.forward(images, Mode::Inference).unwrap();
    let together = logits(&images);
    for index in 0..3 {
        let alone = logits(&images.narrow(0, index, 1).unwrap());
        let in_batch = together.narrow(0, index, 1).unwrap();
        assert!(distance(&alone, &in_batch) < 1e-5);
    }
}

#[test]
fn mismatched_images_are_rejected_with_both_shapes() {
    let config = small();
    let other = PerceiverConfig {
        image_size: 4,
        ..config.clone()
    };
    let error = model(&config, 0)
        .forward(&images(&other, 2, 0), Mode::Inference)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "images: expected [batch, 3, 8, 8], found [2, 3, 4, 4]"
    );
}

#[test]
fn the_gradient_reaches_every_parameter() {
    let config = PerceiverConfig {
        dropout_rate: 0.0,
        attention_dropout: 0.0,
        ..small()
    };
    let parameters = Parameters::from_seed(&config, 5, &Device::Cpu).unwrap();
    let model = parameters.model(&config).unwrap();
    let labels = Tensor::new(&[1u32, 4], &Device::Cpu).unwrap();
    let tape = Tape::start();
    let logits = model
        .forward(&images(&config, 2, 5), Mode::Inference)
        .unwrap();
    let loss = cross_entropy(&logits, &labels).unwrap();
    let gradients = Gradients::of(tape, &loss, &parameters).unwrap();
    for (name, variable) in parameters.iter() {
        let gradient = gradients.get(name).unwrap();
        assert_eq!(gradient.dims(), variable.dims(), "{name}");
        // The bias of the keys adds a constant to each row of logits, which softmax ignores.
        let moves = values(gradient).iter().any(|g| g.abs() > 1e-9);
        assert!(
            moves || name.ends_with("key.bias"),
            "{name} has no gradient"
        );
    }
}

#[test]
fn micro_batches_have_the_dropout_of_the_batch() {
    for head_dim in [0, 4] {
        let config = PerceiverConfig {
            head_dim,
            ..small()
        };
        let (model, images) = (model(&config, 9), images(&config, 5, 9));
        let key = RngKey::new(9);
        let whole = model.forward(&images, Mode::Training(key)).unwrap();
        for (start, count) in [(0, 2), (2, 3), (4, 1)] {
            let part = images.narrow(0, start, count).unwrap();
            let part = model.forward(&part, Mode::TrainingPart { key, start });
            let expected = values(&whole.narrow(0, start, count).unwrap());
            for (actual, expected) in values(&part.unwrap()).iter().zip(expected) {
                assert!((actual - expected).abs() < 1e-5, "{actual}, not {expected}");
            }
        }
    }
}

/// Activation checkpointing (Chen et al., 2016): recomputed activations equal the original ones.
#[test]
fn recomputation_changes_no_bit_of_a_gradient() {
    for head_dim in [0, 4] {
        let config = PerceiverConfig {
            head_dim,
            num_transformer_blocks: 2,
            ..small()
        };
        let parameters = Parameters::from_seed(&config, 9, &Device::Cpu).unwrap();
        let labels = Tensor::new(&[2u32, 5, 0], &Device::Cpu).unwrap();
        let gradients = |recomputes| {
            let model = parameters.model(&config).unwrap();
            let model = model.with_recomputation(recomputes);
            let mode = Mode::Training(RngKey::new(9));
            let tape = Tape::start();
            let logits = model.forward(&images(&config, 3, 9), mode).unwrap();
            let loss = cross_entropy(&logits, &labels).unwrap();
            Gradients::of(tape, &loss, &parameters).unwrap()
        };
        let (kept, again) = (gradients(false), gradients(true));
        for (name, _) in parameters.iter() {
            let of = |gradients: &Gradients| values(gradients.get(name).unwrap());
            assert_eq!(of(&again), of(&kept), "{name}");
        }
    }
}

#[test]
fn initial_parameters_have_the_distributions_of_keras() {
    let config = PerceiverConfig::default();
    let parameters = Parameters::from_seed(&config, 6, &Device::Cpu).unwrap();
    for (name, variable) in parameters.iter() {
        let values = values(variable);
        let count = values.len() as f32;
        let mean = values.iter().sum::<f32>() / count;
        let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / count).sqrt();
        let largest = values
            .iter()
            .fold(0.0f32, |largest, v| largest.max(v.abs()));
        let uniform = |limit: f32| {
            assert!(
                largest <= limit && largest > 0.99 * limit,
                "{name}: limit {largest}, not {limit}"
            );
            assert!(
                (deviation - limit / 3f32.sqrt()).abs() < 0.03 * limit,
                "{name}"
            );
            assert!(mean.abs() < 0.03 * limit, "{name}: mean {mean}");
        };
        match (name, variable.dims()) {
            ("latents", _) => {
                assert!(
                    (deviation - 0.05).abs() < 5e-4,
                    "{name}: deviation {deviation}"
                );
                assert!(mean.abs() < 5e-4 && largest > 0.15, "{name}");
            }
            ("encoder.positions", _) => uniform(0.05),
            ("cross_attention.scale", _) => assert_eq!(values, [1.0]),
            (_, [outputs, inputs]) => uniform((6.0 / (outputs + inputs) as f32).sqrt()),
            (norm, [_]) if norm.contains("norm") && norm.ends_with("weight") => {
                assert!(values.iter().all(|&v| v == 1.0), "{name}");
            }
            _ => assert!(values.iter().all(|&v| v == 0.0), "{name}"),
        }
    }
}

#[test]
fn parameters_depend_on_the_seed_alone() {
    let config = small();
    let bits = |seed| -> Vec<(String, Vec<f32>)> {
        let parameters = Parameters::from_seed(&config, seed, &Device::Cpu).unwrap();
        parameters
            .iter()
            .map(|(name, variable)| (name.to_string(), values(variable)))
            .collect()
    };
    assert_eq!(bits(1), bits(1));
    let (one, two) = (bits(1), bits(2));
    let latents = |all: &[(String, Vec<f32>)]| {
        all.iter()
            .find(|(name, _)| name == "latents")
            .unwrap()
            .1
            .clone()
    };
    assert_ne!(latents(&one), latents(&two));
}

#[test]
fn patches_tile_the_image() {
    let config = small();
    let images = images(&config, 2, 7);
    let patches = patches(&images, config.patch_size).unwrap();
    assert_eq!(
        patches.dims(),
        [2, config.num_patches(), config.patch_len()]
    );
    let sorted = |tensor: &Tensor| {
        let mut values = values(tensor);
        values.sort_by(f32::total_cmp);
        values
    };
    assert_eq!(sorted(&images), sorted(&patches));
}
