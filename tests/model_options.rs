//! Properties that hold for every option that the Keras example does not have: a stem, Fourier
//! positions, more heads, fewer cross-attentions, separate weights.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use perceiver_model::{
    AttentionForm, Parameters, PerceiverConfig, Positions, Sharing, Stage, Summary,
};
use perceiver_ops::{Mode, Tape, layer_norm, linear, split_heads};
use perceiver_tests::tensors::{distance, images, values};
use perceiver_train::{Gradients, MixedPrecision, Precision, cross_entropy};
use proptest::prelude::*;

/// Returns a small model with several tokens even after the largest stem: over a single token,
/// attention has no gradient.
fn small() -> PerceiverConfig {
    PerceiverConfig {
        image_size: 16,
        patch_size: 1,
        latent_dim: 5,
        projection_dim: 16,
        num_heads: 2,
        num_transformer_blocks: 1,
        num_iterations: 3,
        ffn_units: vec![16],
        classifier_units: vec![7],
        dropout_rate: 0.0,
        attention_dropout: 0.0,
        cross_attention_scale: 0.0,
        ..PerceiverConfig::default()
    }
}

prop_compose! {
    fn options()(
        stem in 0usize..3,
        stem_pooling: bool,
        stem_blocks in 0usize..3,
        patch_size in 1usize..3,
        positions in prop::sample::select(vec![Positions::Learned, Positions::Fourier]),
        fourier_bands in 1usize..5,
        heads in prop::sample::select(vec![1, 2, 4]),
        attends in 0usize..4,
        sharing in prop::sample::select(vec![
            Sharing::All,
            Sharing::AllButFirstCross,
            Sharing::None,
        ]),
        norm_pooled: bool,
    ) -> PerceiverConfig {
        PerceiverConfig {
            stem_units: vec![6, 20][..stem].to_vec(),
            stem_pooling: stem_pooling && stem > 0,
            stem_blocks: if stem > 0 { stem_blocks } else { 0 },
            patch_size,
            positions,
            fourier_bands,
            num_cross_heads: heads,
            num_cross_attends: attends,
            sharing,
            norm_pooled,
            ..small()
        }
    }
}

/// Returns the norm of the difference, relative to the norm of `expected`.
fn relative_distance(actual: &[f32], expected: &[f32]) -> f32 {
    let length = |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>().sqrt();
    let pairs = actual.iter().zip(expected);
    length(&mut pairs.map(|(a, b)| a - b)) / length(&mut expected.iter().copied())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Both forms of attention give the same logits and gradients. Gradients reach every
    /// parameter, and the summary counts the parameters.
    #[test]
    fn every_option_trains_in_both_attention_forms(config in options(), seed in 0u64..1000) {
        config.validate().unwrap();
        let parameters = Parameters::from_seed(&config, seed, &Device::Cpu).unwrap();
        prop_assert_eq!(Summary::new(&config).unwrap().parameters(), parameters.count());
        let labels = Tensor::new(&[1u32, 4], &Device::Cpu).unwrap();
        let images = images(&config, 2, seed);
        let of = |form| {
            let model = parameters.model(&config).unwrap().with_attention_form(form);
            let tape = Tape::start();
            let logits = model.forward(&images, Mode::Inference).unwrap();
            let loss = cross_entropy(&logits, &labels).unwrap();
            (logits, Gradients::of(tape, &loss, &parameters).unwrap())
        };
        let (direct, gradients) = of(AttentionForm::Direct);
        let (absorbed, others) = of(AttentionForm::Absorbed);
        prop_assert_eq!(direct.dims(), [2, 7]);
        prop_assert!(distance(&direct, &absorbed) < 1e-4);
        for (name, _) in parameters.iter() {
            let (gradient, other) = (gradients.get(name).unwrap(), others.get(name).unwrap());
            prop_assert!(distance(gradient, other) < 1e-4, "{}", name);
            let moves = values(gradient).iter().any(|g| g.abs() > 1e-9);
            prop_assert!(moves || name.ends_with("key.bias"), "{} has no gradient", name);
        }
    }

    /// Logits and gradients in 16 bits approximate those in 32 bits, with and without
    /// recomputation in the backward pass.
    #[test]
    fn every_option_trains_in_16_bits(config in options(), seed in 0u64..1000, recompute: bool) {
        let parameters = Parameters::from_seed(&config, seed, &Device::Cpu).unwrap();
        let labels = Tensor::new(&[1u32, 4], &Device::Cpu).unwrap();
        let images = images(&config, 2, seed);
        let of = |precision| {
            let copy = MixedPrecision::new(&parameters, &config.clone().into(), precision, recompute).unwrap();
            let tape = Tape::start();
            let model = copy.model(&parameters).unwrap();
            let logits = model.forward(&images, Mode::Inference).unwrap();
            let loss = cross_entropy(&logits, &labels).unwrap();
            let gradients = copy.gradients(tape, &loss, &parameters).unwrap();
            let gradients = parameters.iter().flat_map(|(name, _)| values(gradients.get(name).unwrap()));
            (values(&logits.to_dtype(DType::F32).unwrap()), gradients.collect::<Vec<f32>>())
        };
        let (logits, gradients) = of(Precision::F32);
        let (narrow_logits, narrow_gradients) = of(Precision::Bf16);
        prop_assert!(narrow_logits != logits);
        prop_assert!(relative_distance(&narrow_logits, &logits) < 0.2);
        prop_assert!(relative_distance(&narrow_gradients, &gradients) < 0.4);
    }

    /// The logits of an image do not depend on the other images of the batch.
    #[test]
    fn an_image_has_the_same_scores_alone(config in options(), seed in 0u64..1000) {
        let parameters = Parameters::from_seed(&config, seed, &Device::Cpu).unwrap();
        let model = parameters.inference_model(&config).unwrap();
        let images = images(&config, 3, seed);
        let together = model.forward(&images, Mode::Inference).unwrap();
        for index in 0..3 {
            let alone = model.forward(&images.narrow(0, index, 1).unwrap(), Mode::Inference);
            prop_assert!(distance(&alone.unwrap(), &together.narrow(0, index, 1).unwrap()) < 1e-5);
        }
    }
}

/// Separate weights per iteration give the same results as shared weights if they are equal.
#[test]
fn equal_separate_weights_equal_shared_weights() {
    let shared = small();
    let parameters = Parameters::from_seed(&shared, 1, &Device::Cpu).unwrap();
    let images = images(&shared, 2, 1);
    let expected = parameters
        .model(&shared)
        .unwrap()
        .forward(&images, Mode::Inference)
        .unwrap();
    for (sharing, sets) in [(Sharing::None, 3), (Sharing::AllButFirstCross, 2)] {
        let config = PerceiverConfig {
            sharing,
            ..shared.clone()
        };
        let fresh = Parameters::from_seed(&config, 2, &Device::Cpu).unwrap();
        let copied: HashMap<String, Tensor> = fresh
            .iter()
            .map(|(name, _)| {
                let (layer, rest) = name.split_once('.').unwrap_or((name, ""));
                let first = layer.trim_end_matches("_2").trim_end_matches("_3");
                let original = [first, rest].join(".");
                let original = parameters.get(original.trim_end_matches('.')).unwrap();
                (name.to_string(), original.as_tensor().clone())
            })
            .collect();
        let layers = |prefix: &str| {
            fresh
                .iter()
                .filter(|(name, _)| name.starts_with(prefix) && name.ends_with("key.bias"))
                .count()
        };
        assert_eq!(layers("cross_attention"), sets, "{sharing:?}");
        let separate = Parameters::from_tensors(&config, copied, &Device::Cpu).unwrap();
        let actual = separate
            .model(&config)
            .unwrap()
            .forward(&images, Mode::Inference)
            .unwrap();
        assert!(distance(&actual, &expected) < 1e-5, "{sharing:?}");
    }
}

/// The logits of every head follow the formula of multi-head attention.
#[test]
fn cross_attention_logits_are_scaled_products_of_heads() {
    let config = PerceiverConfig {
        num_cross_heads: 4,
        ..small()
    };
    let parameters = Parameters::from_seed(&config, 3, &Device::Cpu).unwrap();
    let of = |name: &str| parameters.get(name).unwrap().as_tensor();
    // 1 / sqrt(16 / 4)
    assert!((of("cross_attention.scale").to_scalar::<f32>().unwrap() - 0.5).abs() < 1e-6);
    let project = |x: &Tensor, norm: &str, layer: &str| {
        let norm = |kind: &str| of(&format!("cross_attention.{norm}.{kind}"));
        let x = layer_norm(x, norm("weight"), norm("bias"), config.layer_norm_epsilon).unwrap();
        let dense = |kind: &str| of(&format!("cross_attention.{layer}.{kind}"));
        split_heads(&linear(&x, dense("weight"), dense("bias")).unwrap(), 4).unwrap()
    };
    let model = parameters.model(&config).unwrap();
    let images = images(&config, 1, 3);
    let data = model.encode(&images).unwrap();
    let queries = project(
        &of("latents").unsqueeze(0).unwrap(),
        "norm_latents",
        "query",
    );
    let keys = project(&data, "norm_data", "key").transpose(2, 3).unwrap();
    let expected = (queries.matmul(&keys.contiguous().unwrap()).unwrap() * 0.5).unwrap();
    for form in [AttentionForm::Direct, AttentionForm::Absorbed] {
        let mut actual = Vec::new();
        let model = model.clone().with_attention_form(form);
        model
            .forward_probed(&images, Mode::Inference, &mut |stage, tensor| {
                if let Stage::CrossAttentionLogits(0) = stage {
                    actual.push(tensor.clone());
                }
            })
            .unwrap();
        assert!(distance(&actual[0], &expected) < 1e-5);
    }
}

#[test]
fn later_iterations_can_omit_cross_attention() {
    let config = PerceiverConfig {
        num_cross_attends: 2,
        ..small()
    };
    let parameters = Parameters::from_seed(&config, 4, &Device::Cpu).unwrap();
    let model = parameters.model(&config).unwrap();
    let mut stages = Vec::new();
    model
        .forward_probed(&images(&config, 1, 4), Mode::Inference, &mut |stage, _| {
            stages.push(stage);
        })
        .unwrap();
    let count = |wanted: fn(&Stage) -> bool| stages.iter().filter(|stage| wanted(stage)).count();
    assert_eq!(count(|stage| matches!(stage, Stage::CrossAttention(_))), 2);
    assert_eq!(count(|stage| matches!(stage, Stage::Transformer(_))), 3);
    assert_eq!(
        count(|stage| matches!(stage, Stage::SelfAttentionLogits { .. })),
        3
    );
}
