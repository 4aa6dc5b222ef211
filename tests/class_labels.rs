//! Labels mean the same class to the training split, to the test split and to whoever judges the model again; and what is wrong with
//! those of the test split is told before anything is learned.

use std::fs;
use std::path::Path;

use perceiver_data::{Dataset, Image, ShardWriter, Split, write_parquet};
use perceiver_tests::program::{Sandbox, tiny};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_perceiver-under-test");
const TRAIN: &str = "train --preset quickstart --config tiny.toml --dataset";
const BOM: &str = "\u{feff}";

/// An image of one of three classes, which differ in their shade.
fn image(number: usize) -> Image {
    let shade = |at: usize| (80 * (number % 3) + (at * number) % 60) as u8;
    Image::new(8, 8, (0..192).map(shade).collect()).unwrap()
}

/// Images whose classes are called so, listed in this order. Image `n` is always of class `names[n % 3]`.
fn data(count: usize, names: [&str; 3], order: [&str; 3]) -> Dataset {
    let label = |number: usize| {
        let place = order.iter().position(|name| *name == names[number % 3]);
        place.unwrap() as u32
    };
    let classes = order.map(String::from).to_vec();
    let images = (0..count).map(image).collect();
    Dataset::new("pets", images, (0..count).map(label).collect(), classes).unwrap()
}

const PETS: [&str; 3] = ["cat", "dog", "eel"];

/// Parquet shards whose test split has its classes in this order.
fn write_parquet_shards(folder: &Path, test: &Dataset) {
    fs::create_dir_all(folder).unwrap();
    write_parquet(&folder.join("train-0.parquet"), &data(60, PETS, PETS)).unwrap();
    write_parquet(&folder.join("test-0.parquet"), test).unwrap();
}

/// Tar shards with these labels of training and test images.
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

fn workplace() -> Sandbox {
    let place = Sandbox::new(PROGRAM);
    place.write("tiny.toml", tiny());
    place
}

#[test]
fn class_order_of_a_parquet_test_split_does_not_change_the_result() {
    let place = workplace();
    let orders = [("same", PETS), ("other", ["dog", "eel", "cat"])];
    let results = orders.map(|(name, order)| {
        write_parquet_shards(&place.path(name), &data(20, PETS, order));
        place.succeed(&format!("{TRAIN} shards:{name} --output run-{name}"));
        let results = place.path(format!("run-{name}/results.json"));
        numbers(&fs::read_to_string(results).unwrap())
    });
    assert_eq!(results[0], results[1]);
    let evaluate = "evaluate --checkpoint run-same --dataset shards:other --json";
    assert_eq!(numbers(&place.succeed(evaluate).out), results[0]);
    place.succeed("verify run-other");
    place.succeed("report run-other");
}

#[test]
fn a_test_split_that_is_wrong_is_refused_before_training() {
    let place = workplace();
    let eels_are_owls = ["cat", "dog", "owl"];
    write_parquet_shards(&place.path("owls"), &data(20, eels_are_owls, eels_are_owls));
    write_tar_shards(
        &place.path("beyond"),
        &[0, 1, 2, 0, 1, 2, 0, 1, 2, 0],
        &[0, 1, 7],
    );
    for class in ["train/a", "train/b", "test/a"] {
        let folder = place.path(format!("folder/{class}"));
        fs::create_dir_all(&folder).unwrap();
        image(1).write_png(&folder.join("1.png")).unwrap();
    }
    for (dataset, finding) in [
        ("shards:owls", "found class \"owl\""),
        ("shards:beyond", "found class \"7\""),
        ("folder:folder", "\"b\""),
    ] {
        let said = place.run(&format!("{TRAIN} {dataset} --output run"));
        assert_eq!(said.code, Some(1), "{}", said.err);
        assert!(said.err.contains(finding), "{}", said.err);
        assert!(!place.path("run").exists(), "{dataset}: learned before");
    }
}

#[test]
fn text_files_may_have_a_byte_order_mark_and_line_ends_of_windows() {
    let place = workplace();
    write_tar_shards(&place.path("shards"), &[0, 1, 2].repeat(20), &[0, 1, 2]);
    place.write("shards/classes.txt", format!("{BOM}cat\r\ndog\r\neel\r\n"));
    let windows = |text: String| format!("{BOM}{}", text.replace('\n', "\r\n"));
    place.write("tiny.toml", windows(tiny()));
    place.succeed(&format!("{TRAIN} shards:shards --output run"));
    let path = place.path("run/config.json");
    let config = fs::read_to_string(&path).unwrap();
    let json: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(json["id2label"]["0"], "cat");
    fs::write(path, windows(config)).unwrap();
    let recipe = place.path("run/training/recipe.toml");
    let text = fs::read_to_string(&recipe).unwrap();
    fs::write(recipe, windows(text)).unwrap();
    image(1).write_png(&place.path("1.png")).unwrap();
    place.succeed("predict --checkpoint run 1.png");
    place.succeed("train --resume run --epochs 2");
    let sweep = "seeds = [0]\n[[variant]]\nname = 'one'\n".to_string();
    place.write("sweep.toml", windows(sweep));
    place.succeed(&format!(
        "{TRAIN} shards:shards --sweep sweep.toml --output sweep"
    ));
}

#[test]
fn what_looks_wrong_with_classes_is_said() {
    let place = workplace();
    let recipe = tiny().replace("limit_train = 60\n", "");
    place.write("tiny.toml", recipe);
    let ids: Vec<u32> = (0..20).collect();
    write_tar_shards(&place.path("ids"), &ids, &[0, 1]);
    let said = place.succeed(&format!("{TRAIN} shards:ids --output ids-run"));
    assert!(
        said.err.contains("20 classes have one image each"),
        "{}",
        said.err
    );
    write_tar_shards(&place.path("gap"), &[0, 2].repeat(10), &[0, 2]);
    let said = place.succeed(&format!("{TRAIN} shards:gap --output gap-run"));
    let gap = "no training image of class \"1\", of 3 classes";
    assert!(said.err.contains(gap), "{}", said.err);
}

#[cfg(unix)]
#[test]
fn shard_skips_a_link_to_nothing_as_training_does() {
    let place = workplace();
    for class in ["a", "b"] {
        let folder = place.path(format!("photos/{class}"));
        fs::create_dir_all(&folder).unwrap();
        for number in 0..10 {
            image(number)
                .write_png(&folder.join(format!("{number}.png")))
                .unwrap();
        }
    }
    std::os::unix::fs::symlink("nothing", place.path("photos/a/gone.png")).unwrap();
    let said = place.succeed("shard --dataset folder:photos --output shards");
    assert!(said.err.contains("photos/a/gone.png"), "{}", said.err);
    assert!(
        said.err.contains("1 of ") && said.err.contains("were skipped"),
        "{}",
        said.err
    );
    let said = place.succeed(&format!("{TRAIN} shards:shards --output run"));
    assert!(!said.err.contains("skipped"), "{}", said.err);
    // A class of which nothing is left is an error, and nothing is left behind.
    fs::create_dir(place.path("photos/c")).unwrap();
    for number in 0..3 {
        std::os::unix::fs::symlink("nothing", place.path(format!("photos/c/{number}.png")))
            .unwrap();
    }
    let said = place.run("shard --dataset folder:photos --output more");
    assert_eq!(said.code, Some(1));
    assert!(
        said.err.contains("class \"c\" has no readable image"),
        "{}",
        said.err
    );
    assert!(!place.path("more").exists() && !place.path("more.partial").exists());
}
