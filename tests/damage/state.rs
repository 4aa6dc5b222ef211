//! Damaged training states.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use perceiver_tests::run::finished;

use crate::kinds::{Damage, flipped, position, resealed, to_any_file};
use crate::safetensors::{Parts, byte_range, set_value};
use crate::{assert_mentions, files, refused, trained};

/// Returns the kinds of damage that apply to a state, including those of any file.
fn to_a_state() -> Vec<Damage> {
    let begin_of = |name: &'static str| move |file: &[u8]| byte_range(file, name).0;
    let mut all = to_any_file();
    all.extend([
        flipped("flipped in its progress", |file| {
            position(file, "learning_rate")
        }),
        flipped("flipped in the parameters", begin_of("parameters.latents")),
        flipped("flipped in the best weights", begin_of("best.latents")),
        flipped(
            "flipped in the first moments",
            begin_of("optimizer.first.latents"),
        ),
        flipped(
            "flipped in the second moments",
            begin_of("optimizer.second.latents"),
        ),
        flipped("flipped in the averages", begin_of("averages.latents")),
        resealed(
            "of a later format",
            |parts| parts.progress(|progress| progress["format"] = 3.into()),
            "format 3, but this program reads format 2",
        ),
        resealed(
            "without its progress",
            |parts| drop(parts.metadata.remove("progress")),
            "no progress in its metadata",
        ),
        resealed(
            "without a parameter",
            |parts| drop(parts.tensors.remove("parameters.latents")),
            "latents is missing",
        ),
        resealed(
            "without a moment",
            |parts| drop(parts.tensors.remove("optimizer.second.latents")),
            "optimizer.second.latents of shape none instead of [4, 8]",
        ),
        resealed(
            "with a moment of nothing",
            |parts| {
                let moment = parts.tensors["optimizer.first.latents"].clone();
                parts.tensors.insert("optimizer.first.other".into(), moment);
            },
            "tensors optimizer.* instead of",
        ),
        resealed(
            "with a renamed parameter",
            |parts| {
                let tensor = parts.tensors.remove("parameters.latents").unwrap();
                parts.tensors.insert("parameters.latent".into(), tensor);
            },
            "latents is missing",
        ),
        resealed(
            "with a tensor of no kind",
            |parts| {
                let tensor = parts.tensors.remove("best.latents").unwrap();
                parts.tensors.insert("worst.latents".into(), tensor);
            },
            "unknown tensor worst.latents",
        ),
        resealed(
            "with a tensor of another type",
            |parts| parts.tensor("best.latents").0 = "U32".into(),
            "best.latents of type U32 instead of F32",
        ),
        resealed(
            "with a parameter of another shape",
            |parts| parts.tensor("parameters.latents").1 = vec![8, 4],
            "latents: expected shape [4, 8], found [8, 4]",
        ),
        resealed(
            "with a parameter that is no number",
            |parts| set_value(parts, "parameters.latents", 3, f32::NAN),
            "latents: expected finite numbers, found NaN at position 3 of 32",
        ),
        resealed(
            "with an average that is no number",
            |parts| set_value(parts, "averages.latents", 0, f32::INFINITY),
            "averages.latents: expected finite numbers, found inf at position 0 of 32",
        ),
        resealed(
            "with averages of another shape",
            |parts| parts.tensor("averages.latents").1 = vec![32],
            "averages.latents of shape [32] instead of [4, 8]",
        ),
        resealed(
            "of another architecture",
            |parts| recipe_of_state(parts, "latent_dim = 4", "latent_dim = 5"),
            "model.latent_dim is 4, but 5 in the saved training state",
        ),
        resealed(
            "of another recipe",
            |parts| recipe_of_state(parts, "learning_rate = 0.01", "learning_rate = 0.02"),
            "training.learning_rate is 0.01, but 0.02 in the saved training state",
        ),
    ]);
    all
}

fn recipe_of_state(parts: &mut Parts, from: &str, to: &str) {
    parts.progress(|progress| {
        let recipe = progress["recipe"].as_str().unwrap().to_string();
        assert!(recipe.contains(from), "{recipe}");
        progress["recipe"] = recipe.replacen(from, to, 1).into();
    });
}

/// Restores the files of a directory.
fn restore(directory: &Path, was: &BTreeMap<PathBuf, Vec<u8>>) {
    for path in files(directory).into_keys() {
        fs::remove_file(path).unwrap();
    }
    for (path, content) in was {
        fs::write(path, content).unwrap();
    }
}

#[test]
fn damaged_states_are_rejected_and_the_previous_one_gives_the_same_result() {
    let run = trained();
    let (root, state) = (run.path(""), run.path("training/state.safetensors"));
    let whole = files(&root);
    let (metrics, results) = (run.metrics(), run.results());
    let good = &whole[&state];
    for (what, change, finding) in to_a_state() {
        let damaged = change(good);
        assert!(&damaged != good, "{what}: nothing was changed");
        fs::write(&state, &damaged).unwrap();
        let stderr = refused(&run, "train --resume run", what);
        let offer = "state.previous.safetensors, is intact (2 epochs and 0 steps); resume from it with: perceiver train --resume run --from-previous";
        assert_mentions(&stderr, &[finding, "run/training/", offer], what);

        finished(run.resume("--from-previous"));
        assert!(
            run.weights() == whole[&run.path("model.safetensors")],
            "{what}: other weights"
        );
        assert_eq!(
            (run.metrics(), run.results()),
            (metrics.clone(), results.clone()),
            "{what}"
        );
        let aside = fs::read(run.path("training/state.aside-1.safetensors"));
        assert!(
            aside.unwrap() == damaged,
            "{what}: the damaged state was not kept"
        );
        restore(&root, &whole);
    }
}

#[test]
fn a_missing_state_differs_from_a_run_without_states() {
    let run = trained();
    let state = run.path("training/state.safetensors");
    fs::remove_file(&state).unwrap();
    let stderr = refused(&run, "train --resume run", "gone");
    assert_mentions(
        &stderr,
        &["state.safetensors", "no such file", "--from-previous"],
        "gone",
    );
    let weights = run.weights();
    finished(run.resume("--from-previous"));
    assert!(run.weights() == weights && state.exists());
}

#[test]
fn without_a_valid_state_the_weights_are_kept_and_a_new_run_is_suggested() {
    let run = trained();
    for file in ["state.safetensors", "state.previous.safetensors"] {
        fs::write(run.path("training").join(file), "no more").unwrap();
        let after = ["train --resume run", "train --resume run --from-previous"];
        for arguments in after
            .iter()
            .take(if file.contains("previous") { 2 } else { 0 })
        {
            let stderr = refused(&run, arguments, arguments);
            let way = [
                "no other intact state",
                "run/model.safetensors",
                "--recipe run/training/recipe.toml",
            ];
            assert_mentions(&stderr, &way, arguments);
        }
    }
    run.sandbox.succeed("evaluate --checkpoint run");
}
