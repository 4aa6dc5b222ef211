//! Components of training: optimizers, gradient clipping, the two callbacks, loss and metrics.

use std::collections::BTreeSet;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use perceiver_model::{Parameters, PerceiverConfig};
use perceiver_train::{
    Adam, DecayForm, DecayScope, EarlyStopping, EarlyStoppingDecision, Gradients, MetricSums,
    Optimizer, OptimizerName, OptimizerRecipe, Plateau, PlateauConfig,
};

use crate::golden::{self, Arrays, assert_close, read, values};

const WEIGHTS: f32 = 1e-5;

#[test]
fn eight_steps_of_every_optimizer_equal_keras() {
    let decaying = |name| OptimizerRecipe {
        name,
        weight_decay: 1e-2,
        decayed: DecayScope::All,
        ..OptimizerRecipe::default()
    };
    let adamw = decaying(OptimizerName::AdamW);
    let lamb = decaying(OptimizerName::Lamb);
    for directory in golden::directories() {
        let arrays = read(&directory.join("optimizers.safetensors"));
        let compare = |name, optimizer: Box<dyn Optimizer>, clip_norm| {
            compare_optimizer(&directory, &arrays, name, optimizer, clip_norm);
        };
        compare("adam", Box::new(Adam::new(1e-3)), None);
        compare("adam_clip", Box::new(Adam::new(3e-3)), Some(0.5));
        compare("adamw", adamw.build(2e-3), None);
        compare("lamb", lamb.build(5e-3), None);
    }
}

/// Applies an optimizer to the reference gradients, and compares the weights after every step.
fn compare_optimizer(
    directory: &Path,
    arrays: &Arrays,
    name: &str,
    mut optimizer: Box<dyn Optimizer>,
    clip_norm: Option<f64>,
) {
    let tensor = |step: &str, variable: &str| &arrays[&format!("{name}/{step}/{variable}")];
    let variables: BTreeSet<&str> = arrays
        .keys()
        .filter_map(|key| key.strip_prefix(&format!("{name}/w0/")))
        .collect();
    assert!(!variables.is_empty(), "no weights of {name}");
    let steps = (1..=1000)
        .take_while(|step| arrays.contains_key(&format!("{name}/g{step}/matrix")))
        .count();
    assert!(steps > 0, "no gradients of {name}");

    let parameters = Parameters::from_variables(
        variables
            .iter()
            .map(|v| (v.to_string(), tensor("w0", v).clone())),
    )
    .unwrap();
    for step in 1..=steps {
        let gradients = variables
            .iter()
            .map(|v| (v.to_string(), tensor(&format!("g{step}"), v).clone()));
        let mut gradients = Gradients::from_tensors(gradients);
        if let Some(max_norm) = clip_norm {
            gradients = gradients.clipped(max_norm).unwrap();
        }
        optimizer.step(&parameters, &gradients).unwrap();
        for (variable, actual) in parameters.iter() {
            let expected = tensor(&format!("w{step}"), variable);
            let what = format!("{}: {name} {variable} step {step}", directory.display());
            assert_close(actual, expected, WEIGHTS, &what);
        }
    }
}

#[test]
fn a_restored_optimizer_takes_the_same_step() {
    let config = PerceiverConfig {
        image_size: 4,
        latent_dim: 2,
        projection_dim: 4,
        ffn_units: vec![4],
        classifier_units: vec![3],
        ..PerceiverConfig::default()
    };
    let parameters = || Parameters::from_seed(&config, 0, &Device::Cpu).unwrap();
    let gradients = |seed| {
        let like = Parameters::from_seed(&config, seed, &Device::Cpu).unwrap();
        Gradients::from_tensors(like.tensors())
    };
    let names = [
        OptimizerName::Adam,
        OptimizerName::AdamW,
        OptimizerName::Lamb,
        OptimizerName::Muon,
        OptimizerName::Sgd,
    ];
    for name in names {
        let recipe = OptimizerRecipe {
            name,
            momentum: 0.9,
            weight_decay: if name == OptimizerName::Adam {
                0.0
            } else {
                0.1
            },
            ..OptimizerRecipe::default()
        };
        let (one, mut straight) = (parameters(), recipe.build(1e-2));
        for seed in 1..=4 {
            straight.step(&one, &gradients(seed)).unwrap();
        }
        let (two, mut first_half) = (parameters(), recipe.build(1e-2));
        for seed in 1..=2 {
            first_half.step(&two, &gradients(seed)).unwrap();
        }
        let mut second_half = recipe.build(1e-2);
        second_half.restore(first_half.state().unwrap());
        for seed in 3..=4 {
            second_half.step(&two, &gradients(seed)).unwrap();
        }
        for ((parameter, one), (_, two)) in one.iter().zip(two.iter()) {
            assert_eq!(values(one), values(two), "{name:?}: {parameter}");
        }
    }
}

/// The two forms of LAMB's weight decay differ. Expected values are computed by hand, for a weight
/// of 1 and a gradient of 1 at the first step.
#[test]
fn coupled_weight_decay_is_part_of_lambs_update() {
    let name = "dense.weight".to_string();
    let one = || Tensor::new(&[1f32], &Device::Cpu).unwrap();
    let stepped = |decay_form| {
        let recipe = OptimizerRecipe {
            name: OptimizerName::Lamb,
            weight_decay: 0.5,
            decay_form,
            ..OptimizerRecipe::default()
        };
        let parameters = Parameters::from_variables([(name.clone(), one())]).unwrap();
        let gradients = Gradients::from_tensors([(name.clone(), one())]);
        recipe.build(0.1).step(&parameters, &gradients).unwrap();
        values(parameters.get(&name).unwrap())[0]
    };
    // LAMB scales the update, which includes the decay, to the norm of the weight: 0.1 of 1.
    assert!((stepped(DecayForm::Coupled) - 0.9).abs() < 1e-6);
    // The weight first decays by 0.05, then the update subtracts 0.1 of the rest.
    assert!((stepped(DecayForm::Decoupled) - 0.95 * 0.9).abs() < 1e-6);
}

#[test]
fn callbacks_equal_keras_exactly() {
    for directory in golden::directories() {
        let path = directory.join("callbacks.json");
        // Python writes NaN, which JSON does not allow.
        let text = std::fs::read_to_string(&path)
            .unwrap()
            .replace("NaN", "null");
        let facts: serde_json::Value = serde_json::from_str(&text).unwrap();
        let number = |field: &str| facts[field].as_f64().unwrap();
        let count = |field: &str| facts[field].as_u64().unwrap() as usize;
        let config = PlateauConfig {
            factor: number("factor"),
            patience: count("patience"),
            min_delta: number("min_delta"),
            cooldown: count("cooldown"),
            min_learning_rate: number("min_lr"),
        };
        let cases = facts["cases"].as_array().unwrap();
        assert!(!cases.is_empty());
        for (index, case) in cases.iter().enumerate() {
            let what = format!("{} case {index}", path.display());
            let mut plateau = Plateau::new(config);
            let mut early_stopping = EarlyStopping::new(count("early_stopping_patience"));
            let mut learning_rate = number("initial") as f32;
            let (mut rates, mut stopped) = (Vec::new(), None);
            for (epoch, val_loss) in case["val_loss"].as_array().unwrap().iter().enumerate() {
                let val_loss = val_loss.as_f64().unwrap_or(f64::NAN);
                learning_rate = plateau.epoch_ended(val_loss, learning_rate);
                rates.push(f64::from(learning_rate));
                if early_stopping.epoch_ended(val_loss) == EarlyStoppingDecision::Stop {
                    stopped = Some(epoch as u64);
                    break;
                }
            }
            let expected: Vec<f64> = case["learning_rate"]
                .as_array()
                .unwrap()
                .iter()
                .map(|rate| rate.as_f64().unwrap())
                .collect();
            assert_eq!(rates, expected, "{what}: learning rates");
            assert_eq!(
                stopped,
                case["stopped_epoch"].as_u64(),
                "{what}: stopped epoch"
            );
            let best = early_stopping.best_epoch().map(|epoch| epoch as u64);
            assert_eq!(best, case["best_epoch"].as_u64(), "{what}: best epoch");
        }
    }
}

#[test]
fn loss_and_metrics_equal_keras() {
    for directory in golden::directories() {
        let arrays = read(&directory.join("metrics.safetensors"));
        let labels = arrays["labels"].to_dtype(DType::U32).unwrap();
        let mut sums = MetricSums::default();
        sums.update(&arrays["logits"], &labels).unwrap();
        let means = sums.means();
        for (key, actual) in [
            ("loss", means.loss),
            ("acc", means.acc),
            ("top5", means.top5_acc),
        ] {
            let expected: &Tensor = &arrays[key];
            let expected = f64::from(values(expected)[0]);
            assert!(
                (actual - expected).abs() <= 1e-6 * expected.abs(),
                "{}: {key}: {actual}, Keras's {expected}",
                directory.display()
            );
        }
    }
}
