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
