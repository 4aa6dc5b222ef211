//! Recipes and model configurations that were changed, ask for too much or are another program's.

use std::fs;

use perceiver_tests::run::finished;
use serde_json::{Value, json};

use crate::{WITH_WEIGHTS, assert_mentions, refused, trained};

#[test]
fn changed_recipes_are_rejected_by_field() {
    let run = trained();
    let path = run.path("training/recipe.toml");
    let recipe = fs::read_to_string(&path).unwrap();
    let back = "set training.seed back to 0 in run/training/recipe.toml";
    for (from, to, message) in [
        ("[training]", "[training", ["TOML parse error", "fix it"]),
        (
            "\nseed = 0",
            "\nsed = 0",
            [
                "unknown field training.sed; did you mean training.seed?",
                "fix it",
            ],
        ),
        ("\nseed = 0", "\nseed = 'x'", ["training.seed", "fix it"]),
        (
            "\nseed = 0",
            "\nseed = 1",
            ["training.seed is 1, but", back],
        ),
        (
            "latent_dim = 4",
            "latent_dim = 5",
            ["model.latent_dim is 5, but", "back to 4"],
        ),
        (
            "ema_decay = 0.9",
            "",
            ["training.ema_decay is unset, but", "back to 0.9"],
        ),
        (
            "limit_train = 100",
            "limit_train = 90",
            ["data.limit_train is 90, but", "back to 100"],
        ),
        (
            "folder:photos",
            "shapes",
            [
                "the run was trained on data with sha256",
                "--dataset or --data-dir",
            ],
        ),
    ] {
        let changed = recipe.replacen(from, to, 1);
        assert_ne!(changed, recipe, "{from}: nothing was changed");
        fs::write(&path, changed).unwrap();
        let stderr = refused(&run, "train --resume run", to);
        assert_mentions(&stderr, &["run/training/recipe.toml"], to);
        assert_mentions(&stderr, &message, to);
    }
    // A field that may change between sessions of a run.
    let changed = recipe.replacen("[training]", "[training]\ncheckpoint_every = '5m'", 1);
    fs::write(&path, changed).unwrap();
    finished(run.resume(""));
}

/// Sizes that would exhaust memory or never finish.
#[test]
fn oversized_architectures_are_rejected_before_allocation() {
    let run = trained();
    let path = run.path("config.json");
    let text = fs::read_to_string(&path).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    for (field, value, message) in [
        (
            "num_iterations",
            json!(1_u64 << 63),
            "num_iterations: expected at most 1024",
        ),
        (
            "num_iterations",
            json!(1_000_000_000),
            "num_iterations: expected at most 1024",
        ),
        (
            "fourier_bands",
            json!(1_000_000_000_000_u64),
            "fourier_bands: expected at most",
        ),
        (
            "num_transformer_blocks",
            json!(1_u64 << 40),
            "num_transformer_blocks: expected at most",
        ),
        (
            "latent_dim",
            json!(1_u64 << 33),
            "latent_dim: expected at most",
        ),
        ("head_dim", json!(u64::MAX), "head_dim: expected at most"),
        (
            "num_heads",
            json!(u64::MAX / 2),
            "num_heads: expected at most",
        ),
        (
            "classifier_units",
            json!([1_u64 << 60]),
            "classifier_units: expected layers at most",
        ),
        (
            "stem_units",
            json!([1_u64 << 60]),
            "stem_units: expected layers at most",
        ),
        ("latent_dim", json!(65_536), "an array of at most"),
    ] {
        let mut changed = config.clone();
        changed["model"][field] = value;
        fs::write(&path, changed.to_string()).unwrap();
        for command in [WITH_WEIGHTS[0], WITH_WEIGHTS[1], "summary --checkpoint run"] {
            let stderr = refused(&run, command, field);
            assert_mentions(&stderr, &["model configuration: ", message], field);
        }
        let set = match &changed["model"][field] {
            Value::Number(number) if number.as_i64().is_none() => continue, // not in TOML
            other => other.to_string(),
        };
        let output = run.sandbox.run(&format!(
            "train --dataset folder:photos --config tiny.toml --set model.{field}={set}"
        ));
        assert_ne!(output.code, Some(0), "{field}");
        assert_mentions(&output.err, &["model configuration: ", message], field);
        assert!(!run.sandbox.path("runs").exists(), "{field}");
    }
    // Within the bounds, but more blocks than the weights file has.
    let mut changed = config.clone();
    changed["model"]["num_transformer_blocks"] = json!(1000);
    fs::write(&path, changed.to_string()).unwrap();
    let stderr = refused(&run, WITH_WEIGHTS[0], "more blocks");
    assert_mentions(&stderr, &["transformer.1.", "is missing"], "more blocks");
}

#[test]
fn recipes_that_exceed_the_memory_are_rejected_with_the_figure() {
    let run = trained();
    let wide = "--set model.projection_dim=16384 --set model.ffn_units=[16384,16384] --set model.num_heads=64 \
                --set model.head_dim=256 --set model.num_transformer_blocks=100";
    let output = run.sandbox.run(&format!(
        "train --dataset folder:photos --config tiny.toml --output wide {wide}"
    ));
    assert_eq!(output.code, Some(1), "{}", output.err);
    assert_mentions(
        &output.err,
        &[
            "training needs ",
            " GB of memory (at least), but ",
            " GB is available to this process",
        ],
        "wide",
    );
    assert!(!run.sandbox.path("wide").exists());
}

#[test]
fn foreign_models_are_identified_by_name() {
    let run = trained();
    let (config, weights) = (run.path("config.json"), run.path("model.safetensors"));
    let ours = fs::read_to_string(&config).unwrap();
    for (content, message) in [
        (
            r#"{"model_type": "vit", "architectures": ["ViTForImageClassification"], "hidden_size": 768}"#,
            "a transformers model (model_type \"vit\", architectures ViTForImageClassification)",
        ),
        (
            r#"{"architecture": "vit_base_patch16_224", "num_classes": 1000}"#,
            "a timm model (architecture \"vit_base_patch16_224\")",
        ),
        ("{}", "an empty JSON object"),
    ] {
        fs::write(&config, content).unwrap();
        let stderr = refused(&run, WITH_WEIGHTS[0], message);
        let loads = "this program loads model_type \"perceiver-image-classification\" with one model.safetensors";
        assert_mentions(&stderr, &[message, loads], message);
        assert!(!stderr.contains("missing field"), "{stderr}");
    }
    fs::write(&config, ours).unwrap();
    fs::rename(&weights, run.path("model-00001-of-00002.safetensors")).unwrap();
    fs::write(
        run.path("model.safetensors.index.json"),
        r#"{"weight_map": {}}"#,
    )
    .unwrap();
    let stderr = refused(&run, WITH_WEIGHTS[0], "in shards");
    let message = [
        "model.safetensors.index.json",
        "sharded weights",
        "merge them into one file",
    ];
    assert_mentions(&stderr, &message, "in shards");
}
