//! Which images a run learns from, chooses by and is judged by: the splits of folders and shards as people have them.

use std::fs;
use std::path::Path;

use perceiver_data::{ShardWriter, Split};
use perceiver_tests::program::{Sandbox, TINY_MODEL};
use serde_json::Value;

const TRAIN: &str = "train --preset quickstart --config small.toml";

fn workplace() -> Sandbox {
    let place = Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
    place.write(
        "small.toml",
        format!("{TINY_MODEL}[training]\nepochs = 1\nbatch_size = 16\n"),
    );
    place
}

fn image(shade: u8, number: u8) -> Vec<u8> {
    let pixel = |x: u32, y: u32| image::Rgb([shade, number, (x * 9 + y) as u8]);
    let mut png = std::io::Cursor::new(Vec::new());
    let image = image::RgbImage::from_fn(8, 8, pixel);
    image.write_to(&mut png, image::ImageFormat::Png).unwrap();
    png.into_inner()
}

/// Three classes of `count` images each in `folder`, numbered from `first`.
fn classes(place: &Sandbox, folder: &str, first: u8, count: u8) {
    for (class, shade) in [("a", 20), ("b", 120), ("c", 220)] {
        for number in first..first + count {
            let file = format!("{folder}/{class}/{number:03}.png");
            place.write(&file, image(shade, number));
        }
    }
}

fn json(place: &Sandbox, file: &str) -> Value {
    serde_json::from_slice(&fs::read(place.path(file)).unwrap()).unwrap()
}

/// The copy of a directory.
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
fn folder_splits_in_any_case_are_used_and_the_validation_split_too() {
    let place = workplace();
    classes(&place, "photos/Train", 0, 10);
    classes(&place, "photos/Valid", 10, 4);
    classes(&place, "photos/TEST", 20, 2);
    let said = place.succeed(&format!("{TRAIN} --dataset folder:photos --output run"));
    for expected in [
        "folder:photos: validating on the 12 images of its own validation split",
        "30 train, 12 validation, 6 test; 3 classes",
    ] {
        assert!(said.err.contains(expected), "{expected}: {}", said.err);
    }
    assert!(
        said.out
            .contains("test results on folder:photos, 6 images\n"),
        "{}",
        said.out
    );
    assert_eq!(json(&place, "run/results.json").get("split"), None);
    let evaluated = place.succeed("evaluate --checkpoint run --json").out;
    let results = fs::read_to_string(place.path("run/results.json")).unwrap();
    assert_eq!(evaluated, results);
    place.succeed("verify run");
    let resumed = place.succeed("train --resume run --epochs 2");
    assert!(
        resumed
            .err
            .contains("30 train, 12 validation, 6 test; 3 classes")
    );

    let off = "--set data.use_validation_split=false --output off";
    let said = place.succeed(&format!("{TRAIN} --dataset folder:photos {off}"));
    assert!(
        said.err
            .contains("27 train, 3 validation, 6 test; 3 classes"),
        "{}",
        said.err
    );

    place.succeed("shard --dataset folder:photos --output shards");
    let said = place.succeed(&format!("{TRAIN} --dataset shards:shards --output sharded"));
    assert!(
        said.err
            .contains("shards:shards: validating on the 12 images of its own validation split"),
        "{}",
        said.err
    );
    assert!(
        said.err
            .contains("30 train, 12 validation, 6 test; 3 classes"),
        "{}",
        said.err
    );
    let off = off.replace("off", "sharded-off");
    let said = place.succeed(&format!("{TRAIN} --dataset shards:shards {off}"));
    assert!(
        said.err
            .contains("27 train, 3 validation, 6 test; 3 classes"),
        "{}",
        said.err
    );
}

#[test]
fn without_a_test_split_the_validation_split_judges_and_the_results_say_so() {
    let place = workplace();
    classes(&place, "photos/train", 0, 10);
    classes(&place, "photos/val", 10, 4);
    let said = place.succeed(&format!("{TRAIN} --dataset folder:photos --output run"));
    assert!(
        said.err
            .contains("no test split: its validation split photos/val is used as the test split"),
        "{}",
        said.err
    );
    let line = ", 12 images of its validation split (no test split)";
    assert!(said.out.contains(line), "{}", said.out);
    assert_eq!(json(&place, "run/results.json")["split"], "validation");
    let report = fs::read_to_string(place.path("run/report.html")).unwrap();
    assert!(report.contains("folder:photos: the validation split, as there is no test split"));
    assert!(
        place
            .succeed("evaluate --checkpoint run")
            .out
            .contains(line)
    );

    let shards = place.path("shards");
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
    let said = place.succeed(&format!("{TRAIN} --dataset shards:shards --output sharded"));
    assert!(
        said.err.contains("shards:shards: no test split"),
        "{}",
        said.err
    );
    assert_eq!(json(&place, "sharded/results.json")["split"], "validation");
}

#[test]
fn one_class_is_refused_before_anything_is_learned() {
    let place = workplace();
    classes(&place, "outer/photos", 0, 4);
    let failed = place.run(&format!("{TRAIN} --dataset folder:outer"));
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

    fs::create_dir(place.path("shards")).unwrap();
    for split in [Split::Train, Split::Test] {
        let mut writer = ShardWriter::new(place.path("shards"), split, 100);
        for number in 0..9 {
            writer.add(&image(3, number), "png", 1).unwrap();
        }
        writer.finish().unwrap();
    }
    place.write("shards/classes.txt", "ant\nbee\n");
    let failed = place.run(&format!("{TRAIN} --dataset shards:shards"));
    assert_eq!(failed.code, Some(1));
    let expected = "expected training images of at least two classes, found one class, \"bee\"";
    assert!(failed.err.contains(expected), "{}", failed.err);
    let runs = fs::read_dir(place.path("runs"));
    assert_eq!(runs.map_or(0, Iterator::count), 0, "a run was begun");
}

#[test]
fn a_named_folder_is_judged_whole_and_the_training_folder_by_what_was_kept_from_training() {
    let place = workplace();
    classes(&place, "photos", 0, 10);
    classes(&place, "others", 50, 10);
    place.succeed(&format!(
        "{TRAIN} --dataset folder:photos --output run --seed 3"
    ));
    let evaluate = |dataset: &str| {
        let said = place.succeed(&format!("evaluate --checkpoint run --dataset {dataset}"));
        said.out.lines().next().unwrap().to_string()
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
    // By its content, wherever it lies now.
    fs::rename(place.path("photos"), place.path("moved")).unwrap();
    assert_eq!(evaluate("folder:moved"), own("moved"));
    place.succeed("verify run --dataset folder:moved");
    let results = json(&place, "run/results.json");
    assert_eq!(
        (&results["split"], &results["of"]),
        (&"held-out".into(), &30.into())
    );
}

#[test]
fn runs_are_not_taken_for_classes_of_the_folder_they_lie_in() {
    let place = workplace();
    classes(&place, "photos", 0, 10);
    fs::copy(place.path("small.toml"), place.path("photos/small.toml")).unwrap();
    let train = |more: &str| {
        let mut program = place.command(&format!("{TRAIN} --dataset folder:. {more}"));
        let output = program.current_dir(place.path("photos")).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        said
    };
    train("");
    let first = place.path("photos/runs/photos-quickstart-1");
    assert!(first.join("results.json").is_file());
    let said = train("");
    assert!(said.contains("./runs skipped: training runs"), "{said}");
    assert!(said.contains("1 .toml file skipped"), "{said}");
    let second = place.path("photos/runs/photos-quickstart-2/results.json");
    assert_eq!(
        fs::read_to_string(second).unwrap(),
        fs::read_to_string(first.join("results.json")).unwrap()
    );
}

#[test]
fn what_is_passed_over_is_counted_and_said_once() {
    let place = workplace();
    classes(&place, "photos", 0, 4);
    for file in [
        "a/1.heic",
        "a/2.HEIC",
        "b/notes.txt",
        "c/@eaDir/000.png/SYNO.jpg",
        "c/Thumbs.db",
    ] {
        place.write(&format!("photos/{file}"), "");
    }
    let said = place.succeed(&format!("{TRAIN} --dataset folder:photos --output run"));
    for expected in [
        "WARN folder:photos: 2 .heic files skipped",
        "folder:photos: 1 .txt file skipped: no image extension",
        "folder:photos: @eaDir and Thumbs.db skipped",
    ] {
        assert_eq!(
            said.err.matches(expected).count(),
            1,
            "{expected}: {}",
            said.err
        );
    }
    assert_eq!(json(&place, "run/config.json")["data"]["train_images"], 9);
}

/// The split has a seed of its own: whatever else another seed changes, it is judged by the same images.
#[test]
fn seeds_of_the_training_share_the_test_split() {
    let place = workplace();
    classes(&place, "photos", 0, 10);
    for seed in [0, 1] {
        place.succeed(&format!(
            "{TRAIN} --dataset folder:photos --output run{seed} --seed {seed}"
        ));
    }
    let [one, other] = ["run0", "run1"].map(|run| json(&place, &format!("{run}/results.json")));
    assert_eq!(one["sha256"], other["sha256"]);
    assert_ne!(one["loss"], other["loss"]);
    place.succeed("compare run0 run1");
    let other = "--set data.split_seed=1 --output run2";
    place.succeed(&format!("{TRAIN} --dataset folder:photos {other}"));
    assert_ne!(json(&place, "run2/results.json")["sha256"], one["sha256"]);
}

/// A run of an earlier version has no split seed: its own seed drew the split.
#[test]
fn runs_of_earlier_versions_keep_their_split() {
    let place = workplace();
    classes(&place, "photos", 0, 10);
    let flags = "--seed 4 --set data.split_seed=4 --set data.use_validation_split=false";
    place.succeed(&format!(
        "{TRAIN} --dataset folder:photos --output run {flags}"
    ));
    let recipe = fs::read_to_string(place.path("run/training/recipe.toml")).unwrap();
    let old = recipe
        .replace("split_seed = 4\n", "")
        .replace("use_validation_split = false\n", "");
    assert_eq!(old.lines().count() + 2, recipe.lines().count());
    place.write("run/training/recipe.toml", old);
    let mut config = json(&place, "run/config.json");
    assert_eq!(
        config["data"].as_object_mut().unwrap().remove("split_seed"),
        Some(4.into())
    );
    place.write("run/config.json", config.to_string());
    let results = fs::read_to_string(place.path("run/results.json")).unwrap();
    assert_eq!(
        place.succeed("evaluate --checkpoint run --json").out,
        results
    );
    place.succeed("verify run");
    let said = place.succeed("report run").err;
    assert!(!said.contains("not shown"), "{said}");
}

#[test]
fn test_images_of_the_checkpoint_that_are_trained_on_are_counted() {
    let place = workplace();
    classes(&place, "photos", 0, 10);
    let train = format!("{TRAIN} --dataset folder:photos");
    place.succeed(&format!("{train} --output base --set data.split_seed=1"));
    let said = place.succeed(&format!("{train} --output run --init-from base"));
    let line = said
        .err
        .lines()
        .find(|line| line.contains("of its 6 test images are training"));
    let line = line.unwrap_or_else(|| panic!("{}", said.err));
    assert!(
        line.contains("--set data.split_seed=1 splits the folder as it was split then"),
        "{line}"
    );
    let shared = json(&place, "run/config.json")["data"]["init_overlap"]
        .as_u64()
        .unwrap();
    assert!(
        (1..=6).contains(&shared) && line.contains(&format!("{shared} of its 6")),
        "{line}"
    );
    let verified = place.succeed("verify run").err;
    assert!(
        verified.contains(&format!("{shared} test images of its initial checkpoint")),
        "{verified}"
    );
    // The number stays when the run goes on, and the folder may lie elsewhere.
    place.succeed("train --resume run --epochs 2");
    assert_eq!(
        json(&place, "run/config.json")["data"]["init_overlap"],
        shared
    );
    copy(&place.path("photos"), &place.path("copy"));
    let flags = "--dataset folder:copy --output copied --init-from base";
    let said = place.succeed(&format!("{TRAIN} {flags}"));
    assert!(
        said.err.contains(&format!("{shared} of its 6 test images")),
        "{}",
        said.err
    );

    let said = place.succeed(&format!(
        "{train} --output clean --init-from base --set data.split_seed=1"
    ));
    assert!(
        !said.err.contains("test images are training"),
        "{}",
        said.err
    );
    assert_eq!(json(&place, "clean/config.json")["data"]["init_overlap"], 0);
    assert!(!place.succeed("verify clean").err.contains("were trained"));
}
