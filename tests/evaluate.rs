//! The tables of `perceiver evaluate`: confusion matrix, metrics by class, predictions.

use std::fs;
use std::path::Path;

use perceiver_data::Image;
use perceiver_tests::program::{Sandbox, TINY_MODEL};
use perceiver_train::{ClassificationReport, ConfusionMatrix, Prediction, read_predictions};
use serde_json::Value;

/// Names that CSV has to quote.
const CLASSES: [&str; 3] = ["a, \"b\"", "line\nbreak", "\u{1b}[31m"];

/// Returns a sandbox with a model in `run`, trained on a folder whose classes have these names.
fn trained() -> Sandbox {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
    let config = TINY_MODEL.replace("[20]", "[3]");
    let training = "[training]\nepochs = 1\nbatch_size = 16\n";
    sandbox.write("tiny.toml", config + training);
    for (class, name) in (0_u8..).zip(CLASSES) {
        for index in 0..20_u8 {
            let folder = sandbox.path("photos").join(name);
            fs::create_dir_all(&folder).unwrap();
            let pixel = |at: u8| (40 * class).wrapping_add(at.wrapping_mul(index));
            let image = Image::new(8, 8, (0..192).map(pixel).collect()).unwrap();
            image
                .write_png(folder.join(format!("{index}, \"x\".png")))
                .unwrap();
        }
    }
    sandbox.succeed(
        "train --preset quickstart --dataset folder:photos --config tiny.toml --output run",
    );
    sandbox
}

fn rows(path: &Path) -> Vec<Vec<String>> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .from_path(path)
        .unwrap();
    let rows = reader
        .records()
        .map(|row| row.unwrap().iter().map(String::from).collect());
    rows.collect()
}

fn saved(sandbox: &Sandbox) -> Vec<Prediction> {
    read_predictions(sandbox.path("run/predictions.csv")).unwrap()
}

#[test]
fn tables_have_the_numbers_of_the_saved_predictions_and_the_names_of_the_classes() {
    let sandbox = trained();
    sandbox.succeed("evaluate run --confusion confusion.csv --per-class classes.csv --predictions p.csv --top-k 2");
    let predictions = saved(&sandbox);
    let mut classes = CLASSES.map(String::from);
    classes.sort();
    let matrix = ConfusionMatrix::new(&predictions);
    let confusion = rows(&sandbox.path("confusion.csv"));
    assert_eq!(confusion[0][1..], classes);
    let mut total = 0;
    for (label, row) in (0..).zip(&confusion[1..]) {
        assert_eq!(row[0], classes[label as usize]);
        for (predicted, count) in (0..).zip(&row[1..]) {
            let count: u64 = count.parse().unwrap();
            assert_eq!(count, matrix.count(label, predicted));
            total += count;
        }
    }
    assert_eq!(total, predictions.len() as u64);

    let report = ClassificationReport::new(&predictions).unwrap();
    let per_class = rows(&sandbox.path("classes.csv"));
    assert_eq!(
        per_class[0],
        ["class", "precision", "recall", "f1", "support"]
    );
    let number = |row: &[String], at: usize| row[at].parse::<f64>().unwrap();
    for (class, row) in (0..).zip(&per_class[1..4]) {
        let of = report.class(class);
        assert_eq!(row[0], classes[class as usize]);
        let found = [1, 2, 3].map(|at| number(row, at).to_bits());
        assert_eq!(found, [of.precision, of.recall, of.f1].map(f64::to_bits));
        assert_eq!(row[4], of.support.to_string());
    }
    assert_eq!(
        [&per_class[4][0], &per_class[5][0]],
        ["macro avg", "weighted avg"]
    );
    assert!((number(&per_class[5], 2) - report.accuracy).abs() < 1e-12);

    let found = rows(&sandbox.path("p.csv"));
    let header = [
        "image",
        "path",
        "true_class",
        "predicted_class",
        "probability",
        "true_class_probability",
        "true_class_rank",
        "top1_class",
        "top1_probability",
        "top2_class",
        "top2_probability",
    ];
    assert_eq!(found[0], header);
    assert_eq!(found.len(), 1 + predictions.len());
    for (row, prediction) in found[1..].iter().zip(&predictions) {
        assert_eq!(row[0], prediction.image.to_string());
        assert!(row[1].starts_with(&format!("{}/", row[2])), "{row:?}");
        assert_eq!(row[2], classes[prediction.label as usize]);
        assert_eq!(row[3], classes[prediction.predicted as usize]);
        assert_eq!(
            row[4].parse::<f32>().unwrap().to_bits(),
            prediction.probability.to_bits()
        );
        assert_eq!([&row[7], &row[8]], [&row[3], &row[4]]);
        assert!(row[10].parse::<f32>().unwrap() <= prediction.probability);
    }
}

#[test]
fn predictions_as_json_have_the_same_content() {
    let sandbox = trained();
    sandbox.succeed("evaluate run --predictions p.csv");
    let printed = sandbox
        .succeed("evaluate run --predictions p.json --json")
        .out;
    let results = fs::read_to_string(sandbox.path("run/results.json")).unwrap();
    assert_eq!(printed, results);
    let more = sandbox.succeed("evaluate run --per-class c.csv --json").out;
    let [mut more, results]: [Value; 2] =
        [more, results].map(|text| serde_json::from_str(&text).unwrap());
    let error = more.as_object_mut().unwrap().remove("calibration_error");
    assert!((0.0..=1.0).contains(&error.unwrap().as_f64().unwrap()));
    assert_eq!(more, results);
    let csv = rows(&sandbox.path("p.csv"));
    let json: Value = serde_json::from_slice(&fs::read(sandbox.path("p.json")).unwrap()).unwrap();
    let json = json.as_array().unwrap();
    assert_eq!(json.len(), csv.len() - 1);
    for (object, row) in json.iter().zip(&csv[1..]) {
        assert_eq!(object["path"], *row[1]);
        assert_eq!(object["true_class"], *row[2]);
        assert_eq!(object["predicted_class"], *row[3]);
        let top = object["top_k"].as_array().unwrap();
        assert_eq!(top.len(), 3, "all three classes");
        assert_eq!(top[2]["class"], *row[11]);
    }
}

#[test]
fn files_that_cannot_be_written_are_refused_before_the_evaluation() {
    let sandbox = trained();
    fs::remove_dir_all(sandbox.path("photos")).unwrap(); // an evaluation would fail
    for (arguments, message) in [
        (
            "--predictions p.txt",
            "--predictions p.txt: expected a name that ends in .csv or .json",
        ),
        (
            "--confusion c.json",
            "--confusion c.json: expected a name that ends in .csv",
        ),
        (
            "--per-class nowhere/c.csv",
            "--per-class nowhere/c.csv: expected a file in an existing directory",
        ),
        ("--predictions p.csv --top-k 0", "expected at least 1"),
    ] {
        let output = sandbox.run(&format!("evaluate run {arguments}"));
        assert_eq!(output.code, Some(2), "{arguments}: {}", output.err);
        assert!(
            output.err.contains(message),
            "{message:?} in {}",
            output.err
        );
    }
}
