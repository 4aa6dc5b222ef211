//! Labels name the same classes in training, in the test split and in later evaluations. Invalid
//! labels of the test split are reported before training.

use std::fs;
use std::path::Path;

use perceiver_data::{Dataset, Image, ShardWriter, Split, write_parquet};
use perceiver_tests::program::{Sandbox, tiny};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_perceiver-under-test");
const TRAIN: &str = "train --preset quickstart --config tiny.toml --dataset";
const BOM: &str = "\u{feff}";

/// Returns an image of class `number % 3`. The classes differ in brightness.
fn image(number: usize) -> Image {
    let shade = |at: usize| (80 * (number % 3) + (at * number) % 60) as u8;
    Image::new(8, 8, (0..192).map(shade).collect()).unwrap()
}

/// Returns a data set whose classes are listed in `order`.
/// Image `n` is always of class `names[n % 3]`.
fn data(count: usize, names: [&str; 3], order: [&str; 3]) -> Dataset {
    let label = |number: usize| {
        let index = order.iter().position(|name| *name == names[number % 3]);
        index.unwrap() as u32
    };
    let classes = order.map(String::from).to_vec();
    let images = (0..count).map(image).collect();
    Dataset::new("pets", images, (0..count).map(label).collect(), classes).unwrap()
}

const PETS: [&str; 3] = ["cat", "dog", "eel"];

/// Writes Parquet shards with `test` as the test split, whose order of classes may differ.
fn write_parquet_shards(folder: &Path, test: &Dataset) {
    fs::create_dir_all(folder).unwrap();
    write_parquet(&folder.join("train-0.parquet"), &data(60, PETS, PETS)).unwrap();
    write_parquet(&folder.join("test-0.parquet"), test).unwrap();
}

/// Writes tar shards with these labels of training and test images.
fn write_tar_shards(folder: &Path, train: &[u32], test: &[u32]) {
    fs::create_dir_all(folder).unwrap();
    for (split, labels) in [(Split::Train, train), (Split::Test, test)] {
        let mut writer = ShardWriter::new(folder, split, 100);
        for (number, &label) in labels.iter().enumerate() {
            let png = image(number).to_png().unwrap();
            writer.add(&png, "png", label).unwrap();
        }
        writer.finish().unwrap();
    }
}

fn numbers(text: &str) -> [Value; 3] {
    let results: Value = serde_json::from_str(text).unwrap();
    ["images", "acc", "loss"].map(|name| results[name].clone())
}

fn new_sandbox() -> Sandbox {
    let sandbox = Sandbox::new(PROGRAM);
    sandbox.write("tiny.toml", tiny());
    sandbox
}

#[test]
fn class_order_of_a_parquet_test_split_does_not_change_the_result() {
    let sandbox = new_sandbox();
    let orders = [("same", PETS), ("other", ["dog", "eel", "cat"])];
    let results = orders.map(|(name, order)| {
        write_parquet_shards(&sandbox.path(name), &data(20, PETS, order));
        sandbox.succeed(&format!("{TRAIN} shards:{name} --output run-{name}"));
        let results = sandbox.path(format!("run-{name}/results.json"));
        numbers(&fs::read_to_string(results).unwrap())
    });
    assert_eq!(results[0], results[1]);
    let evaluate = "evaluate --checkpoint run-same --dataset shards:other --json";
    assert_eq!(numbers(&sandbox.succeed(evaluate).out), results[0]);
    sandbox.succeed("verify run-other");
    sandbox.succeed("report run-other");
}

#[test]
fn a_test_split_that_is_wrong_is_refused_before_training() {
    let sandbox = new_sandbox();
    let eels_are_owls = ["cat", "dog", "owl"];
    write_parquet_shards(
        &sandbox.path("owls"),
        &data(20, eels_are_owls, eels_are_owls),
    );
    write_tar_shards(
        &sandbox.path("beyond"),
        &[0, 1, 2, 0, 1, 2, 0, 1, 2, 0],
        &[0, 1, 7],
    );
    for class in ["train/a", "train/b", "test/a"] {
        let folder = sandbox.path(format!("folder/{class}"));
        fs::create_dir_all(&folder).unwrap();
        image(1).write_png(folder.join("1.png")).unwrap();
    }
    for (dataset, finding) in [
        ("shards:owls", "found class \"owl\""),
        ("shards:beyond", "found class \"7\""),
        ("folder:folder", "\"b\""),
    ] {
        let output = sandbox.run(&format!("{TRAIN} {dataset} --output run"));
        assert_eq!(output.code, Some(1), "{}", output.err);
        assert!(output.err.contains(finding), "{}", output.err);
        assert!(!sandbox.path("run").exists(), "{dataset}: learned before");
    }
}

#[test]
fn text_files_may_have_a_byte_order_mark_and_line_ends_of_windows() {
    let sandbox = new_sandbox();
    write_tar_shards(&sandbox.path("shards"), &[0, 1, 2].repeat(20), &[0, 1, 2]);
    sandbox.write("shards/classes.txt", format!("{BOM}cat\r\ndog\r\neel\r\n"));
    let windows = |text: String| format!("{BOM}{}", text.replace('\n', "\r\n"));
    sandbox.write("tiny.toml", windows(tiny()));
    sandbox.succeed(&format!("{TRAIN} shards:shards --output run"));
    let path = sandbox.path("run/config.json");
    let config = fs::read_to_string(&path).unwrap();
    let json: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(json["id2label"]["0"], "cat");
    fs::write(path, windows(config)).unwrap();
    let recipe = sandbox.path("run/training/recipe.toml");
    let text = fs::read_to_string(&recipe).unwrap();
    fs::write(recipe, windows(text)).unwrap();
    image(1).write_png(sandbox.path("1.png")).unwrap();
    sandbox.succeed("predict --checkpoint run 1.png");
    sandbox.succeed("train --resume run --epochs 2");
    let sweep = "seeds = [0]\n[[variant]]\nname = 'one'\n".to_string();
    sandbox.write("sweep.toml", windows(sweep));
    sandbox.succeed(&format!(
        "{TRAIN} shards:shards --sweep sweep.toml --output sweep"
    ));
}

#[test]
fn suspicious_classes_are_reported() {
    let sandbox = new_sandbox();
    let recipe = tiny().replace("limit_train = 60\n", "");
    sandbox.write("tiny.toml", recipe);
    let ids: Vec<u32> = (0..20).collect();
    write_tar_shards(&sandbox.path("ids"), &ids, &[0, 1]);
    let output = sandbox.succeed(&format!("{TRAIN} shards:ids --output ids-run"));
    assert!(
        output.err.contains("20 classes have one image each"),
        "{}",
        output.err
    );
    write_tar_shards(&sandbox.path("gap"), &[0, 2].repeat(10), &[0, 2]);
    let output = sandbox.succeed(&format!("{TRAIN} shards:gap --output gap-run"));
    let gap = "no training image of class \"1\", of 3 classes";
    assert!(output.err.contains(gap), "{}", output.err);
}

#[cfg(unix)]
#[test]
fn shard_skips_dangling_links_like_training() {
    let sandbox = new_sandbox();
    for class in ["a", "b"] {
        let folder = sandbox.path(format!("photos/{class}"));
        fs::create_dir_all(&folder).unwrap();
        for number in 0..10 {
            image(number)
                .write_png(folder.join(format!("{number}.png")))
                .unwrap();
        }
    }
    std::os::unix::fs::symlink("nothing", sandbox.path("photos/a/gone.png")).unwrap();
    let output = sandbox.succeed("shard --dataset folder:photos --output shards");
    assert!(output.err.contains("photos/a/gone.png"), "{}", output.err);
    assert!(
        output.err.contains("1 of ") && output.err.contains("were skipped"),
        "{}",
        output.err
    );
    let output = sandbox.succeed(&format!("{TRAIN} shards:shards --output run"));
    assert!(!output.err.contains("skipped"), "{}", output.err);
    // A class without readable images is an error, and no files are left behind.
    fs::create_dir(sandbox.path("photos/c")).unwrap();
    for number in 0..3 {
        std::os::unix::fs::symlink("nothing", sandbox.path(format!("photos/c/{number}.png")))
            .unwrap();
    }
    let output = sandbox.run("shard --dataset folder:photos --output more");
    assert_eq!(output.code, Some(1));
    assert!(
        output.err.contains("class \"c\" has no readable image"),
        "{}",
        output.err
    );
    assert!(!sandbox.path("more").exists() && !sandbox.path("more.partial").exists());
}
