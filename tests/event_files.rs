//! TensorBoard's event files and `metrics.csv`, read by an independent implementation.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use perceiver_tests::program::names_in;
use perceiver_tests::run::{Run, finished, several_epochs};
use perceiver_train::{EpochMetrics, MetricsFile};

/// A data point of a curve.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Point {
    step: u64,
    value: f32,
    wall_time: f64,
}

fn new_run(training: &str) -> Run {
    Run::new(env!("CARGO_BIN_EXE_perceiver-under-test"), training)
}

/// Computes the CRC-32C bit by bit from its polynomial.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

#[test]
fn crc32c_matches_the_standard_check_value() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}

/// Removes `count` bytes from the front, and returns them.
fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(count);
    *bytes = rest;
    taken
}

/// Returns the messages of a record file, after verifying every checksum.
fn messages(mut bytes: &[u8]) -> Vec<&[u8]> {
    let checked = |bytes: &[u8], crc: &[u8]| {
        let stored = u32::from_le_bytes(crc.try_into().unwrap());
        let crc = stored.wrapping_sub(0xa282_ead8).rotate_left(15);
        assert_eq!(crc, crc32c(bytes));
    };
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let length = take(&mut bytes, 8);
        checked(length, take(&mut bytes, 4));
        let length = u64::from_le_bytes(length.try_into().unwrap());
        let message = take(&mut bytes, length as usize);
        checked(message, take(&mut bytes, 4));
        messages.push(message);
    }
    messages
}

/// A field of a protocol-buffer message.
#[derive(Debug)]
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let byte = take(bytes, 1)[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}

/// Parses the fields of a message, each with its number.
fn fields(mut message: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message);
        let field = match key & 7 {
            0 => Field::Number(varint(&mut message)),
            1 => Field::Bytes(take(&mut message, 8)),
            2 => {
                let length = varint(&mut message) as usize;
                Field::Bytes(take(&mut message, length))
            }
            5 => Field::Bytes(take(&mut message, 4)),
            other => panic!("wire type {other}"),
        };
        fields.push((key >> 3, field));
    }
    fields
}

fn bytes<'a>(fields: &[(u64, Field<'a>)], number: u64) -> Option<&'a [u8]> {
    fields.iter().find_map(|(key, field)| match field {
        Field::Bytes(bytes) if *key == number => Some(*bytes),
        _ => None,
    })
}

fn event_file(run: &Run) -> PathBuf {
    let names = names_in(&run.path("tensorboard"));
    assert_eq!(names.len(), 1, "{names:?}");
    assert!(names[0].starts_with("events.out.tfevents."), "{names:?}");
    run.path("tensorboard").join(&names[0])
}

/// Reads the curves of a run by their tags.
fn curves(run: &Run) -> BTreeMap<String, Vec<Point>> {
    let file = fs::read(event_file(run)).unwrap();
    let messages = messages(&file);
    let first = fields(messages[0]);
    assert_eq!(bytes(&first, 3), Some(&b"brain.Event:2"[..]));
    let mut curves: BTreeMap<String, Vec<Point>> = BTreeMap::new();
    for message in &messages[1..] {
        let event = fields(message);
        let wall_time = f64::from_le_bytes(bytes(&event, 1).unwrap().try_into().unwrap());
        let step = event.iter().find_map(|(number, field)| match field {
            Field::Number(step) if *number == 2 => Some(*step),
            _ => None,
        });
        for (_, value) in fields(bytes(&event, 5).unwrap()) {
            let Field::Bytes(value) = value else {
                panic!("{value:?}")
            };
            let value = fields(value);
            let tag = String::from_utf8(bytes(&value, 1).unwrap().to_vec()).unwrap();
            let Some(number) = bytes(&value, 2) else {
                continue; // a text summary
            };
            let value = f32::from_le_bytes(number.try_into().unwrap());
            curves.entry(tag).or_default().push(Point {
                step: step.unwrap(),
                value,
                wall_time,
            });
        }
    }
    curves
}

fn history(run: &Run) -> Vec<EpochMetrics> {
    MetricsFile::read(run.path("metrics.jsonl")).unwrap()
}

/// Selects a metric of an epoch.
type Number = fn(&EpochMetrics) -> f64;

/// Asserts that the event file has every metric of every epoch exactly once.
fn assert_curves_are_those_of(run: &Run) {
    let (curves, history) = (curves(run), history(run));
    let numbers: [(&str, Number); 9] = [
        ("loss/train", |epoch| epoch.loss),
        ("loss/validation", |epoch| epoch.val_loss),
        ("accuracy/train", |epoch| epoch.acc),
        ("accuracy/validation", |epoch| epoch.val_acc),
        ("top5_accuracy/train", |epoch| epoch.top5_acc),
        ("top5_accuracy/validation", |epoch| epoch.val_top5_acc),
        ("learning_rate", |epoch| epoch.learning_rate.into()),
        ("speed/images_per_second", |epoch| epoch.images_per_second),
        ("speed/seconds", |epoch| epoch.seconds),
    ];
    for (tag, number) in numbers {
        let actual: Vec<(u64, f32)> = curves[tag].iter().map(|p| (p.step, p.value)).collect();
        let expected = history.iter().map(|e| (e.epoch as u64, number(e) as f32));
        assert_eq!(actual, expected.collect::<Vec<_>>(), "{tag}");
    }
    // Timestamps advance by the duration of each epoch.
    let loss = &curves["loss/train"];
    for (points, epoch) in loss.windows(2).zip(&history[1..]) {
        let step = points[1].wall_time - points[0].wall_time;
        assert!((step - epoch.seconds).abs() < 1e-3, "{step}");
    }
    let results: serde_json::Value = serde_json::from_str(&run.results()).unwrap();
    for (tag, name) in [
        ("loss/test", "loss"),
        ("accuracy/test", "acc"),
        ("top5_accuracy/test", "top5_acc"),
        ("balanced_accuracy/test", "balanced_acc"),
        ("macro_f1/test", "macro_f1"),
    ] {
        let [point] = curves[tag][..] else {
            panic!("{tag}: {:?}", curves[tag])
        };
        let expected = results[name].as_f64().unwrap() as f32;
        assert_eq!((point.step, point.value), (history.len() as u64, expected));
    }
}

#[test]
fn a_run_has_its_curves_in_an_event_file() {
    let run = new_run("diagnose = true\n");
    finished(run.start());
    assert_curves_are_those_of(&run);
    let curves = curves(&run);
    for epoch in history(&run) {
        let diagnosis = epoch.diagnosis.unwrap();
        let at = |tag: &str| f64::from(curves[tag][epoch.epoch - 1].value);
        let [actual, expected] = [
            at("cross_attention/iteration_1/entropy"),
            diagnosis.model.cross_attentions[0].entropy,
        ];
        assert!((actual - expected).abs() < 1e-6, "{actual} {expected}");
        let largest = diagnosis.gradients.norm_max;
        assert!((at("gradient_norm/max") / largest - 1.0).abs() < 1e-6);
    }
    let layers = curves
        .keys()
        .filter(|tag| tag.starts_with("gradient_norm/layer/"));
    assert!(layers.count() > 3);
}

#[test]
fn killed_and_resumed_runs_have_every_epoch_once() {
    let run = new_run("");
    finished(run.start());
    let whole = fs::read(event_file(&run)).unwrap();
    // Truncated, as by a kill during an append, then without the file.
    for kept in [whole.len() / 2, 3, 0] {
        fs::write(event_file(&run), &whole[..kept]).unwrap();
        finished(run.resume(""));
        assert_curves_are_those_of(&run);
    }
    fs::remove_dir_all(run.path("tensorboard")).unwrap();
    finished(run.resume(""));
    assert_curves_are_those_of(&run);
    let begun = curves(&run)["loss/train"][0].wall_time;
    finished(run.resume("--epochs 8"));
    assert_curves_are_those_of(&run);
    let still = curves(&run)["loss/train"][0].wall_time;
    assert_eq!(begun.to_bits(), still.to_bits(), "the beginning moved");
}

#[test]
fn metrics_csv_equals_metrics_jsonl() {
    let run = new_run("diagnose = true\n");
    run.sandbox.write(
        "tiny.toml",
        several_epochs().replace("epochs = 6", "epochs = 2") + "diagnose = true\n",
    );
    finished(run.start());
    let table = fs::read_to_string(run.path("metrics.csv")).unwrap();
    let mut lines = table.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    let objects = fs::read_to_string(run.path("metrics.jsonl")).unwrap();
    let mut epochs = 0;
    for (line, object) in lines.zip(objects.lines()) {
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(object).unwrap();
        let values: Vec<f64> = line
            .split(',')
            .map(|value| value.parse().unwrap())
            .collect();
        for (name, value) in names.iter().zip(&values) {
            let expected = object[*name].as_f64().unwrap();
            assert!((value - expected).abs() <= 1e-6 * expected.abs(), "{name}");
        }
        assert_eq!(names.len(), values.len());
        assert_eq!(names.len() + 1, object.len(), "all but the diagnosis");
        epochs += 1;
    }
    assert_eq!(epochs, 2);
}

/// A histogram as TensorBoard reads it.
#[derive(Debug)]
struct Histogram {
    epoch: u64,
    min: f64,
    max: f64,
    count: f64,
    sum: f64,
    limits: Vec<f64>,
    counts: Vec<f64>,
}

fn double(bytes: &[u8]) -> f64 {
    f64::from_le_bytes(bytes.try_into().unwrap())
}

/// Reads the histograms of a run by their tags.
fn histograms(run: &Run) -> BTreeMap<String, Vec<Histogram>> {
    let directory = run.path("tensorboard/histograms");
    let names = names_in(&directory);
    assert_eq!(names.len(), 1, "{names:?}");
    let file = fs::read(directory.join(&names[0])).unwrap();
    let mut histograms: BTreeMap<String, Vec<Histogram>> = BTreeMap::new();
    for message in &messages(&file)[1..] {
        let event = fields(message);
        let Some(&(_, Field::Number(epoch))) = event.iter().find(|(number, _)| *number == 2) else {
            panic!("{event:?}")
        };
        for (_, value) in fields(bytes(&event, 5).unwrap()) {
            let Field::Bytes(value) = value else {
                panic!("{value:?}")
            };
            let value = fields(value);
            let tag = String::from_utf8(bytes(&value, 1).unwrap().to_vec()).unwrap();
            let histogram = fields(bytes(&value, 5).unwrap());
            // A field of the value 0 is left out.
            let number = |field| bytes(&histogram, field).map_or(0.0, double);
            let list = |field| {
                bytes(&histogram, field)
                    .unwrap()
                    .chunks(8)
                    .map(double)
                    .collect()
            };
            histograms.entry(tag).or_default().push(Histogram {
                epoch,
                min: number(1),
                max: number(2),
                count: number(3),
                sum: number(4),
                limits: list(6),
                counts: list(7),
            });
        }
    }
    histograms
}

#[test]
#[allow(clippy::float_cmp)] // Counts are exact.
fn histograms_are_recorded_on_request_and_change_no_bit() {
    let plain = new_run("");
    finished(plain.start());
    assert!(!plain.path("tensorboard/histograms").exists());
    let run = new_run("");
    let mut program = run.start();
    program.args(["--histograms", "2"]);
    finished(program);
    run.assert_same_end(&plain);

    let all = histograms(&run);
    let state = candle_core::safetensors::load(
        run.path("training/state.safetensors"),
        &candle_core::Device::Cpu,
    );
    let state = state.unwrap();
    let mut weights = 0;
    for (tag, histograms) in &all {
        let epochs: Vec<u64> = histograms.iter().map(|histogram| histogram.epoch).collect();
        assert_eq!(epochs, [2, 4, 6], "{tag}");
        for histogram in histograms {
            assert_eq!(
                histogram.counts.iter().sum::<f64>(),
                histogram.count,
                "{tag}"
            );
            assert_eq!(histogram.limits.len(), histogram.counts.len(), "{tag}");
            assert!(histogram.limits.len() <= 30, "{tag}");
            assert!(histogram.limits.is_sorted(), "{tag}");
            assert_eq!(histogram.limits.last(), Some(&histogram.max), "{tag}");
            assert!(histogram.min <= histogram.max, "{tag}");
        }
        let last = &histograms[2];
        let Some(name) = tag.strip_prefix("weights/") else {
            let name = tag.strip_prefix("gradients/").unwrap();
            assert!(all.contains_key(&format!("weights/{name}")), "{name}");
            continue;
        };
        // The state has the weights after the last epoch.
        let tensor = &state[&format!("parameters.{name}")];
        let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        let sum: f64 = values.iter().map(|&value| f64::from(value)).sum();
        assert_eq!(last.count, values.len() as f64, "{name}");
        assert!((last.sum - sum).abs() < 1e-9, "{name}: {} {sum}", last.sum);
        weights += values.len();
    }
    assert!(weights > 1000, "{weights}");
    let gradients = all.keys().filter(|tag| tag.starts_with("gradients/"));
    assert_eq!(2 * gradients.count(), all.len());
}
