//! Tests on the real CIFAR-100, which may not be redistributed. They are ignored by default, and
//! need `PERCEIVER_CIFAR100_DIR` to name the directory that contains `cifar-100-binary`.

use std::fs;
use std::path::PathBuf;

use perceiver_data::{Cifar, Labels, LoadOptions, Normalization, Source, Split};
use perceiver_tests::program::Sandbox;
use serde_json::Value;
use xtask::download::HttpOptions;
use xtask::fetch::{Fetch, Origin, Outcome};
use xtask::progress::Silent;
use xtask::spec::DatasetSpec;

fn directory() -> PathBuf {
    let directory = std::env::var_os("PERCEIVER_CIFAR100_DIR")
        .expect("PERCEIVER_CIFAR100_DIR: expected the directory that holds cifar-100-binary");
    PathBuf::from(directory)
}

#[test]
#[ignore = "needs the real CIFAR-100"]
fn files_match_the_published_checksums_and_statistics() {
    let options = LoadOptions {
        data_dir: directory(),
        ..LoadOptions::default()
    };
    for (split, images) in [(Split::Train, 50_000), (Split::Test, 10_000)] {
        let data = Source::Cifar100.load(split, &options).unwrap();
        assert_eq!((data.len(), data.classes().len()), (images, 100));
        let mut counts = [0usize; 100];
        data.labels()
            .iter()
            .for_each(|&label| counts[label as usize] += 1);
        assert_eq!(counts, [images / 100; 100]);
        if split == Split::Train {
            assert_eq!(data.classes()[data.labels()[0] as usize], "cattle");
            let groups = data.groups().unwrap();
            assert_eq!(groups.names.len(), 20);
            let group = groups.of_class[data.labels()[0] as usize];
            assert_eq!(
                groups.names[group as usize],
                "large_omnivores_and_herbivores"
            );
            let mean = Normalization::adapt(&data).unwrap().mean;
            for (actual, expected) in mean.iter().zip([0.50708f32, 0.48655, 0.44092]) {
                assert!((actual / 255.0 - expected).abs() < 1e-5, "{mean:?}");
            }
        }
    }
    let coarse = Cifar::Hundred
        .read(&directory(), Split::Test, Labels::Coarse)
        .unwrap();
    assert_eq!(coarse.classes().len(), 20);
}

#[test]
#[ignore = "needs the real CIFAR-100"]
fn fetching_from_the_directory_verifies_the_files() {
    let data = tempfile::tempdir().unwrap();
    let fetch = Fetch {
        spec: &DatasetSpec::cifar100(),
        data_dir: data.path(),
        http: HttpOptions::default(),
        progress: &Silent,
    };
    let origin = Origin::Directory(directory());
    assert_eq!(fetch.run(&origin).unwrap(), Outcome::Installed);
    assert_eq!(fetch.run(&origin).unwrap(), Outcome::AlreadyThere);
}

fn trained(flags: &str) -> (Sandbox, String) {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
    let data = directory();
    let output = sandbox.succeed(&format!(
        "train --dataset cifar100 --data-dir {} --output run {flags}",
        data.display()
    ));
    let evaluated = sandbox.succeed(&format!(
        "evaluate --checkpoint run --data-dir {} --json",
        data.display()
    ));
    let results = fs::read_to_string(sandbox.path("run/results.json")).unwrap();
    assert_eq!(
        evaluated.out, results,
        "evaluate repeats the results to the last digit"
    );
    (sandbox, output.err)
}

#[test]
#[ignore = "needs the real CIFAR-100"]
fn cifar100_cpu_learns_from_its_first_images() {
    let flags = "--preset cifar100-cpu --epochs 2 --limit-train 4000 --limit-test 500 --seed 0";
    let (sandbox, _) = trained(flags);
    let metrics = fs::read_to_string(sandbox.path("run/metrics.jsonl")).unwrap();
    let losses: Vec<f64> = metrics
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|epoch| epoch["val_loss"].as_f64().unwrap())
        .collect();
    assert_eq!(losses.len(), 2);
    assert!(losses[1] < losses[0], "{losses:?}");
    assert!(
        losses[1] < 100f64.ln() - 0.05,
        "no better than chance: {losses:?}"
    );
}

#[test]
#[ignore = "needs the real CIFAR-100"]
fn the_full_model_of_the_example_runs() {
    let (sandbox, stderr) =
        trained("--preset keras --epochs 1 --limit-train 20 --batch-size 4 --limit-test 4");
    assert!(stderr.contains("9,697,637 parameters"), "{stderr}");
    let bytes = fs::metadata(sandbox.path("run/model.safetensors"))
        .unwrap()
        .len();
    assert!(bytes > 4 * 9_697_637);
}
