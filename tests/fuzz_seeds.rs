//! Replays the seeds of the fuzz targets and inputs that once failed: none ends the process, and
//! seeds named `ok-` are read, so that a fuzzer starts beyond the first checks.

use std::fs;
use std::path::{Path, PathBuf};

fn seeds_of(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(target);
    let mut seeds: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    seeds.sort();
    seeds
}

/// Runs a target on all of its seeds.
fn replay(target: &str) {
    let bodies = fuzz_bodies::BODIES.iter();
    let body = { bodies }.find(|(name, _)| *name == target).unwrap().1;
    let mut honest = 0;
    for seed in seeds_of(target) {
        let name = seed.file_name().unwrap().to_string_lossy().into_owned();
        println!("{target}/{name}"); // shown if the target panics
        let read = body(&fs::read(&seed).unwrap());
        if name.starts_with("ok-") {
            assert!(read, "{} is no longer read", seed.display());
            honest += 1;
        }
    }
    assert!(honest > 0, "no seed of {target} is one to begin with");
}

#[test]
fn every_fuzz_target_has_a_body() {
    let targets = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/targets");
    let mut targets: Vec<_> = fs::read_dir(targets)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_owned())
        .collect();
    targets.sort();
    assert_eq!(targets, fuzz_bodies::BODIES.map(|(name, _)| name));
}

#[test]
fn seeds_of_cifar_are_replayed() {
    replay("cifar");
}

#[test]
fn seeds_of_config_are_replayed() {
    replay("config");
}

#[test]
fn seeds_of_image_are_replayed() {
    replay("image");
}

#[test]
fn seeds_of_parquet_are_replayed() {
    replay("parquet");
}

#[test]
fn seeds_of_preprocessor_are_replayed() {
    replay("preprocessor");
}

#[test]
fn seeds_of_pytorch_are_replayed() {
    replay("pytorch");
}

#[test]
fn seeds_of_recipe_are_replayed() {
    replay("recipe");
}

#[test]
fn seeds_of_state_are_replayed() {
    replay("state");
}

#[test]
fn seeds_of_tar_are_replayed() {
    replay("tar");
}

#[test]
fn seeds_of_weights_are_replayed() {
    replay("weights");
}
