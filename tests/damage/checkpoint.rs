//! Damaged weights and configurations, and weights that are no finite numbers.

use std::fs;

use perceiver_tests::run::finished;

use crate::kinds::{Damage, damage, flipped, resealed, to_any_file};
use crate::safetensors::{Parts, byte_range, set_value};
use crate::{WITH_WEIGHTS, assert_mentions, files, refused, trained};

/// Weights and configuration are derived from the state, so resuming writes them again.
#[test]
fn damaged_checkpoints_are_rejected_and_resuming_repairs_them() {
    let run = trained();
    let whole = files(&run.path(""));
    let mut all: Vec<(&str, Damage)> = Vec::new();
    let other_shape = |parts: &mut Parts| parts.tensor("latents").1 = vec![8, 4];
    let without = |parts: &mut Parts| drop(parts.tensors.remove("latents"));
    let text = |what, from: &'static str, to: &'static str, message| {
        let change = move |file: &[u8]| {
            let text = std::str::from_utf8(file).unwrap();
            text.replacen(from, to, 1).into_bytes()
        };
        damage(what, change, message)
    };
    let weights = [
        flipped("flipped in a weight", |file| byte_range(file, "latents").0),
        resealed(
            "of another shape",
            other_shape,
            "expected shape [4, 8], found [8, 4]",
        ),
        resealed("without a weight", without, "latents is missing"),
        resealed(
            "of a training that diverged",
            |parts| set_value(parts, "latents", 3, f32::NAN),
            "latents: expected finite numbers, found NaN at position 3 of 32",
        ),
        resealed(
            "with an infinite weight",
            |parts| set_value(parts, "latents", 31, f32::NEG_INFINITY),
            "latents: expected finite numbers, found -inf at position 31 of 32",
        ),
        resealed(
            "of integers",
            |parts| parts.tensor("latents").0 = "I32".into(),
            "latents: expected a floating-point type such as F32, found I32",
        ),
    ];
    let config = [
        text("no JSON", "{", "[", "is damaged or invalid"),
        text(
            "another model's",
            "perceiver-image",
            "vit-image",
            "vit-image",
        ),
        text(
            "of a later format",
            "\"format\": 3",
            "\"format\": 9",
            "in format 9",
        ),
        text(
            "without a class",
            "\"0\": \"class-0\",",
            "",
            "id2label with key 1 instead of 0",
        ),
        text(
            "of another width",
            "\"latent_dim\": 4",
            "\"latent_dim\": 5",
            "[5, 8], found [4, 8]",
        ),
    ];
    all.extend(
        to_any_file()
            .into_iter()
            .chain(weights)
            .map(|damage| ("model.safetensors", damage)),
    );
    all.extend(config.map(|damage| ("config.json", damage)));
    let gone = |_: &[u8]| Vec::new();
    all.push(("model.safetensors", damage("gone", gone, "cannot read")));
    all.push(("config.json", damage("gone", gone, "cannot read")));
    for (file, (what, change, finding)) in all {
        let path = run.path(file);
        fs::write(&path, change(&whole[&path])).unwrap();
        assert!(
            fs::read(&path).unwrap() != whole[&path],
            "{what}: nothing was changed"
        );
        if what == "gone" {
            fs::remove_file(&path).unwrap();
        }
        let what = format!("{file} {what}");
        let stderr = refused(&run, "evaluate --checkpoint run", &what);
        assert_mentions(
            &stderr,
            &[finding, "run/", "`perceiver train --resume run` writes"],
            &what,
        );
        finished(run.resume(""));
        assert!(
            files(&run.path("")) == whole,
            "{what}: resuming did not mend it"
        );
    }
}

/// Weights written by other programs have no checksum; a `config.json` of format 1 permits this.
#[test]
fn weights_without_a_checksum_are_read_if_the_config_allows_it() {
    let run = trained();
    let mut weights = Parts::of(&run.weights());
    weights.metadata.clear();
    fs::write(run.path("model.safetensors"), weights.unsealed()).unwrap();
    let config = fs::read_to_string(run.path("config.json")).unwrap();
    let first = config.replace("\"format\": 3", "\"format\": 1");
    fs::write(run.path("config.json"), first).unwrap();
    let output = run.sandbox.succeed("evaluate --checkpoint run --json");
    assert_eq!(output.out, run.results());
}

#[test]
fn non_finite_weights_are_rejected_by_every_command() {
    let run = trained();
    let path = run.path("model.safetensors");
    let mut parts = Parts::of(&fs::read(&path).unwrap());
    set_value(&mut parts, "head.0.bias", 2, f32::NAN);
    fs::write(&path, parts.sealed()).unwrap();
    for command in WITH_WEIGHTS {
        let stderr = refused(&run, command, command);
        let expected = "model.safetensors: weights: head.0.bias: expected finite numbers, found NaN at position 2 of 4";
        assert_mentions(&stderr, &[expected], command);
    }
    assert!(!run.sandbox.path("other").exists() && !run.sandbox.path("map.png").exists());
}

/// Finite weights whose products overflow.
#[test]
fn non_finite_scores_are_never_printed() {
    let run = trained();
    let path = run.path("model.safetensors");
    let whole = fs::read(&path).unwrap();
    let with = |tensor: &str| {
        let mut parts = Parts::of(&whole);
        for at in 0..parts.tensor(tensor).2.len() / 4 {
            set_value(&mut parts, tensor, at, 3e38);
        }
        fs::write(&path, parts.sealed()).unwrap();
    };
    with("head.0.weight");
    for format in ["text", "table", "json", "csv"] {
        let command = format!("predict --checkpoint run --format {format} photos/class-0/0.png");
        let output = run.sandbox.run(&command);
        assert_eq!(
            output.code,
            Some(1),
            "{command}: {} {}",
            output.out,
            output.err
        );
        assert!(!output.out.contains("0.png"), "{command}: {}", output.out);
        let parts = [
            "photos/class-0/0.png: image 0: expected finite logits",
            "weights are too large",
        ];
        assert_mentions(&output.err, &parts, &command);
    }
    for command in [
        "evaluate --checkpoint run",
        "evaluate --checkpoint run --json",
    ] {
        let stderr = refused(&run, command, command);
        assert_mentions(&stderr, &["image 0: expected finite logits"], command);
    }
    with("cross_attention.scale");
    let command = "attention --checkpoint run --output map.png photos/class-0/0.png";
    let stderr = refused(&run, command, command);
    assert_mentions(&stderr, &["image 0: expected finite logits"], command);
}
