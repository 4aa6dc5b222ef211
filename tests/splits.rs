//! The training, validation and test images of a run, from folders and shards in usual layouts.

use std::fs;
use std::path::Path;

use perceiver_data::{ShardWriter, Split};
use perceiver_tests::program::{Sandbox, TINY_MODEL};
use serde_json::Value;

const TRAIN: &str = "train --preset quickstart --config small.toml";

fn new_sandbox() -> Sandbox {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
    sandbox.write(
        "small.toml",
        format!("{TINY_MODEL}[training]\nepochs = 1\nbatch_size = 16\n"),
    );
    sandbox
}

fn image(shade: u8, number: u8) -> Vec<u8> {
    let pixel = |x: u32, y: u32| image::Rgb([shade, number, (x * 9 + y) as u8]);
    let mut png = std::io::Cursor::new(Vec::new());
    let image = image::RgbImage::from_fn(8, 8, pixel);
    image.write_to(&mut png, image::ImageFormat::Png).unwrap();
    png.into_inner()
}

/// Writes three classes of `count` images each to `folder`, numbered from `first`.
fn classes(sandbox: &Sandbox, folder: &str, first: u8, count: u8) {
    for (class, shade) in [("a", 20), ("b", 120), ("c", 220)] {
        for number in first..first + count {
            let file = format!("{folder}/{class}/{number:03}.png");
            sandbox.write(&file, image(shade, number));
        }
    }
}

fn json(sandbox: &Sandbox, file: &str) -> Value {
    serde_json::from_slice(&fs::read(sandbox.path(file)).unwrap()).unwrap()
}

/// Copies a directory.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(path, target).unwrap();
        }
    }
}

#[test]
fn folder_splits_match_in_any_case_including_validation() {
    let sandbox = new_sandbox();
    classes(&sandbox, "photos/Train", 0, 10);
    classes(&sandbox, "photos/Valid", 10, 4);
    classes(&sandbox, "photos/TEST", 20, 2);
    let output = sandbox.succeed(&format!("{TRAIN} --dataset folder:photos --output run"));
    for expected in [
        "folder:photos: validating on the 12 images of its own validation split",
        "30 train, 12 validation, 6 test; 3 classes",
    ] {
        assert!(output.err.contains(expected), "{expected}: {}", output.err);
    }
    assert!(
        output
            .out
            .contains("test results on folder:photos, 6 images\n"),
        "{}",
        output.out
    );
    assert_eq!(json(&sandbox, "run/results.json").get("split"), None);
    let evaluated = sandbox.succeed("evaluate --checkpoint run --json").out;
    let results = fs::read_to_string(sandbox.path("run/results.json")).unwrap();
    assert_eq!(evaluated, results);
    sandbox.succeed("verify run");
    let resumed = sandbox.succeed("train --resume run --epochs 2");
    assert!(
        resumed
            .err
            .contains("30 train, 12 validation, 6 test; 3 classes")
    );

    let off = "--set data.use_validation_split=false --output off";
    let output = sandbox.succeed(&format!("{TRAIN} --dataset folder:photos {off}"));
    assert!(
        output
            .err
            .contains("27 train, 3 validation, 6 test; 3 classes"),
        "{}",
        output.err
    );

    sandbox.succeed("shard --dataset folder:photos --output shards");
    let output = sandbox.succeed(&format!("{TRAIN} --dataset shards:shards --output sharded"));
    assert!(
        output
            .err
            .contains("shards:shards: validating on the 12 images of its own validation split"),
        "{}",
        output.err
    );
    assert!(
        output
            .err
            .contains("30 train, 12 validation, 6 test; 3 classes"),
        "{}",
        output.err
    );
    let off = off.replace("off", "sharded-off");
    let output = sandbox.succeed(&format!("{TRAIN} --dataset shards:shards {off}"));
    assert!(
        output
            .err
            .contains("27 train, 3 validation, 6 test; 3 classes"),
        "{}",
        output.err
    );
}

#[test]
fn without_a_test_split_the_validation_split_is_the_test_split_and_named() {
    let sandbox = new_sandbox();
    classes(&sandbox, "photos/train", 0, 10);
    classes(&sandbox, "photos/val", 10, 4);
    let output = sandbox.succeed(&format!("{TRAIN} --dataset folder:photos --output run"));
    assert!(
        output
            .err
            .contains("no test split: its validation split photos/val is used as the test split"),
        "{}",
        output.err
    );
    let line = ", 12 images of its validation split (no test split)";
    assert!(output.out.contains(line), "{}", output.out);
    assert_eq!(json(&sandbox, "run/results.json")["split"], "validation");
    let report = fs::read_to_string(sandbox.path("run/report.html")).unwrap();
    assert!(report.contains("folder:photos: the validation split, as there is no test split"));
    assert!(
        sandbox
            .succeed("evaluate --checkpoint run")
            .out
            .contains(line)
    );

    let shards = sandbox.path("shards");
    fs::create_dir(&shards).unwrap();
    for (split, count) in [(Split::Train, 20), (Split::Validation, 4)] {
        let mut writer = ShardWriter::new(&shards, split, 100);
        for number in 0..count {
            let label = u32::from(number % 2);
            writer
                .add(&image(100 * (number % 2), number), "png", label)
                .unwrap();
        }
        writer.finish().unwrap();
    }
    let output = sandbox.succeed(&format!("{TRAIN} --dataset shards:shards --output sharded"));
    assert!(
        output.err.contains("shards:shards: no test split"),
        "{}",
        output.err
    );
    assert_eq!(
        json(&sandbox, "sharded/results.json")["split"],
        "validation"
    );
}

#[test]
fn a_single_class_is_rejected_before_training() {
    let sandbox = new_sandbox();
    classes(&sandbox, "outer/photos", 0, 4);
    let failed = sandbox.run(&format!("{TRAIN} --dataset folder:outer"));
    assert_eq!(failed.code, Some(1));
    assert!(
        failed
            .err
            .contains("expected at least two classes, found one, \"photos\""),
        "{}",
        failed.err
    );
    assert!(
        failed.err.contains("use folder:outer/photos"),
        "{}",
        failed.err
    );

    fs::create_dir(sandbox.path("shards")).unwrap();
    for split in [Split::Train, Split::Test] {
        let mut writer = ShardWriter::new(sandbox.path("shards"), split, 100);
        for number in 0..9 {
            writer.add(&image(3, number), "png", 1).unwrap();
        }
        writer.finish().unwrap();
    }
    sandbox.write("shards/classes.txt", "ant\nbee\n");
    let failed = sandbox.run(&format!("{TRAIN} --dataset shards:shards"));
    assert_eq!(failed.code, Some(1));
    let expected = "expected training images of at least two classes, found one class, \"bee\"";
    assert!(failed.err.contains(expected), "{}", failed.err);
    let runs = fs::read_dir(sandbox.path("runs"));
    assert_eq!(runs.map_or(0, Iterator::count), 0, "a run was begun");
}

#[test]
fn named_folders_are_evaluated_whole_and_training_folders_by_their_held_out_images() {
    let sandbox = new_sandbox();
    classes(&sandbox, "photos", 0, 10);
    classes(&sandbox, "others", 50, 10);
    sandbox.succeed(&format!(
        "{TRAIN} --dataset folder:photos --output run --seed 3"
    ));
    let evaluate = |dataset: &str| {
        let output = sandbox.succeed(&format!("evaluate --checkpoint run --dataset {dataset}"));
        output.out.lines().next().unwrap().to_string()
    };
    assert_eq!(
        evaluate("folder:others"),
        "test results on folder:others, all 30 images (no test split)"
    );
    assert_eq!(
        evaluate("folder:others --limit-test 7"),
        "test results on folder:others, 7 of 30 images (no test split)"
    );
    let own = |name: &str| {
        format!("test results on folder:{name}, 6 of 30 images, held out from training")
    };
    assert_eq!(evaluate("folder:photos"), own("photos"));
    assert_eq!(evaluate("folder:others/../photos"), own("others/../photos"));
    // Identified by its content, wherever it is.
    fs::rename(sandbox.path("photos"), sandbox.path("moved")).unwrap();
    assert_eq!(evaluate("folder:moved"), own("moved"));
    sandbox.succeed("verify run --dataset folder:moved");
    let results = json(&sandbox, "run/results.json");
    assert_eq!(
        (&results["split"], &results["of"]),
        (&"held-out".into(), &30.into())
    );
}

#[test]
fn runs_inside_a_dataset_folder_are_no_classes() {
    let sandbox = new_sandbox();
    classes(&sandbox, "photos", 0, 10);
    fs::copy(
        sandbox.path("small.toml"),
        sandbox.path("photos/small.toml"),
    )
    .unwrap();
    let train = |more: &str| {
        let mut program = sandbox.command(&format!("{TRAIN} --dataset folder:. {more}"));
        let output = program
            .current_dir(sandbox.path("photos"))
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{stderr}");
        stderr
    };
    train("");
    let first = sandbox.path("photos/runs/photos-quickstart-1");
    assert!(first.join("results.json").is_file());
    let stderr = train("");
    assert!(stderr.contains("./runs skipped: training runs"), "{stderr}");
    assert!(stderr.contains("1 .toml file skipped"), "{stderr}");
    let second = sandbox.path("photos/runs/photos-quickstart-2/results.json");
    assert_eq!(
        fs::read_to_string(second).unwrap(),
        fs::read_to_string(first.join("results.json")).unwrap()
    );
}

#[test]
fn skipped_files_are_counted_and_reported_once() {
    let sandbox = new_sandbox();
    classes(&sandbox, "photos", 0, 4);
    for file in [
        "a/1.heic",
        "a/2.HEIC",
        "b/notes.txt",
        "c/@eaDir/000.png/SYNO.jpg",
        "c/Thumbs.db",
    ] {
        sandbox.write(&format!("photos/{file}"), "");
    }
    let output = sandbox.succeed(&format!("{TRAIN} --dataset folder:photos --output run"));
    for expected in [
        "WARN folder:photos: 2 .heic files skipped",
        "folder:photos: 1 .txt file skipped: no image extension",
        "folder:photos: @eaDir and Thumbs.db skipped",
    ] {
        assert_eq!(
            output.err.matches(expected).count(),
            1,
            "{expected}: {}",
            output.err
        );
    }
    assert_eq!(json(&sandbox, "run/config.json")["data"]["train_images"], 9);
}

/// The split has its own seed: runs with other training seeds are tested on the same images.
#[test]
fn all_seeds_share_the_test_split() {
    let sandbox = new_sandbox();
    classes(&sandbox, "photos", 0, 10);
    for seed in [0, 1] {
        sandbox.succeed(&format!(
            "{TRAIN} --dataset folder:photos --output run{seed} --seed {seed}"
        ));
    }
    let [one, other] = ["run0", "run1"].map(|run| json(&sandbox, &format!("{run}/results.json")));
    assert_eq!(one["sha256"], other["sha256"]);
    assert_ne!(one["loss"], other["loss"]);
    sandbox.succeed("compare run0 run1");
    let other = "--set data.split_seed=1 --output run2";
    sandbox.succeed(&format!("{TRAIN} --dataset folder:photos {other}"));
    assert_ne!(json(&sandbox, "run2/results.json")["sha256"], one["sha256"]);
}

/// Runs of earlier versions have no split seed: the training seed drew their split.
#[test]
fn runs_of_earlier_versions_keep_their_split() {
    let sandbox = new_sandbox();
    classes(&sandbox, "photos", 0, 10);
    let flags = "--seed 4 --set data.split_seed=4 --set data.use_validation_split=false";
    sandbox.succeed(&format!(
        "{TRAIN} --dataset folder:photos --output run {flags}"
    ));
    let recipe = fs::read_to_string(sandbox.path("run/training/recipe.toml")).unwrap();
    let old = recipe
        .replace("split_seed = 4\n", "")
        .replace("use_validation_split = false\n", "");
    assert_eq!(old.lines().count() + 2, recipe.lines().count());
    sandbox.write("run/training/recipe.toml", old);
    let mut config = json(&sandbox, "run/config.json");
    assert_eq!(
        config["data"].as_object_mut().unwrap().remove("split_seed"),
        Some(4.into())
    );
    sandbox.write("run/config.json", config.to_string());
    let results = fs::read_to_string(sandbox.path("run/results.json")).unwrap();
    assert_eq!(
        sandbox.succeed("evaluate --checkpoint run --json").out,
        results
    );
    sandbox.succeed("verify run");
    let stderr = sandbox.succeed("report run").err;
    assert!(!stderr.contains("not shown"), "{stderr}");
}

#[test]
fn overlap_with_the_test_images_of_the_checkpoint_is_counted() {
    let sandbox = new_sandbox();
    classes(&sandbox, "photos", 0, 10);
    let train = format!("{TRAIN} --dataset folder:photos");
    sandbox.succeed(&format!("{train} --output base --set data.split_seed=1"));
    let output = sandbox.succeed(&format!("{train} --output run --init-from base"));
    let line = output
        .err
        .lines()
        .find(|line| line.contains("of its 6 test images are training"));
    let line = line.unwrap_or_else(|| panic!("{}", output.err));
    assert!(
        line.contains("--set data.split_seed=1 splits the folder as it was split then"),
        "{line}"
    );
    let shared = json(&sandbox, "run/config.json")["data"]["init_overlap"]
        .as_u64()
        .unwrap();
    assert!(
        (1..=6).contains(&shared) && line.contains(&format!("{shared} of its 6")),
        "{line}"
    );
    let verified = sandbox.succeed("verify run").err;
    assert!(
        verified.contains(&format!("{shared} test images of its initial checkpoint")),
        "{verified}"
    );
    // The number is kept when the run is resumed, and does not depend on the folder's location.
    sandbox.succeed("train --resume run --epochs 2");
    assert_eq!(
        json(&sandbox, "run/config.json")["data"]["init_overlap"],
        shared
    );
    copy(&sandbox.path("photos"), &sandbox.path("copy"));
    let flags = "--dataset folder:copy --output copied --init-from base";
    let output = sandbox.succeed(&format!("{TRAIN} {flags}"));
    assert!(
        output
            .err
            .contains(&format!("{shared} of its 6 test images")),
        "{}",
        output.err
    );

    let output = sandbox.succeed(&format!(
        "{train} --output clean --init-from base --set data.split_seed=1"
    ));
    assert!(
        !output.err.contains("test images are training"),
        "{}",
        output.err
    );
    assert_eq!(
        json(&sandbox, "clean/config.json")["data"]["init_overlap"],
        0
    );
    assert!(!sandbox.succeed("verify clean").err.contains("were trained"));
}
