//! Tests of `parquet.rs`, on files written by `writer.rs`.

use std::fs;

use proptest::prelude::*;

use super::*;
use crate::formats::parquet::writer::{Cells, write_columns, write_parquet};

const SCHEMA: &str = "message rows {
    optional group img { optional binary bytes; optional binary path (STRING); }
    optional int64 label;
}";

/// Returns an image with distinct pixels, height and width.
fn asymmetric() -> Image {
    Image::new(3, 5, (0..45).map(|at| at * 5).collect()).unwrap()
}

fn pets(count: usize) -> Dataset {
    let images = (0..count).map(|at| {
        let mut pixels = asymmetric().pixels().to_vec();
        pixels.rotate_left(at % 45);
        Image::new(3, 5, pixels).unwrap()
    });
    let labels = (0..count as u32).map(|at| at % 2).collect();
    let classes = vec!["cat".to_owned(), "dog".to_owned()];
    Dataset::new("pets", images.collect(), labels, classes).unwrap()
}

fn groups() -> Groups {
    Groups {
        names: vec!["wild".into(), "tame".into()],
        of_class: vec![1, 0],
    }
}

/// Returns a PNG file encoded from rows of `[red, green, blue]`.
fn png_by_rows() -> Vec<u8> {
    let mut rows = Vec::new();
    for y in 0..3_u8 {
        for x in 0..5_u8 {
            rows.extend([0_u8, 15, 30].map(|plane| (plane + y * 5 + x) * 5));
        }
    }
    let mut file = std::io::Cursor::new(Vec::new());
    let buffer = image::RgbImage::from_raw(5, 3, rows).unwrap();
    buffer.write_to(&mut file, image::ImageFormat::Png).unwrap();
    file.into_inner()
}

struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, schema: &str, columns: &[Cells]) -> PathBuf {
        let path = self.path("rows.parquet");
        write_columns(&path, schema, None, columns).unwrap();
        path
    }
}

fn read(path: &Path) -> Result<Dataset> {
    read_parquet("pets", &[path.to_owned()], &ParquetOptions::default())
}

fn error(path: &Path) -> String {
    read(path)
        .unwrap_err()
        .to_string()
        .replace(&path.display().to_string(), "FILE")
}

#[test]
fn images_are_decoded_upright() {
    let fixture = Fixture::new();
    let paths = Cells::Bytes(vec![Some(b"0.png".to_vec())]);
    let columns = [
        Cells::Bytes(vec![Some(png_by_rows())]),
        paths,
        Cells::Integers(vec![Some(0)]),
    ];
    let image = read(&fixture.write(SCHEMA, &columns)).unwrap().images()[0].clone();
    assert_eq!((image.height(), image.width()), (3, 5));
    for (channel, y, x) in
        (0..3).flat_map(|c| (0..3).flat_map(move |y| (0..5).map(move |x| (c, y, x))))
    {
        let at = channel * 15 + y * 5 + x; // [3, height, width]
        assert_eq!(
            usize::from(image.pixels()[at]),
            at * 5,
            "channel {channel}, row {y}, column {x}"
        );
    }
}

#[test]
fn plain_binary_columns_and_other_names_are_read() {
    let fixture = Fixture::new();
    let schema = "message rows { required int64 kind; required binary photo; }";
    let columns = [
        Cells::Integers(vec![Some(1), Some(0)]),
        Cells::Bytes(vec![Some(png_by_rows()); 2]),
    ];
    let path = fixture.write(schema, &columns);
    let options = ParquetOptions {
        image_column: Some("photo".into()),
        label_column: Some("kind".into()),
        ..ParquetOptions::default()
    };
    let data = read_parquet("pets", std::slice::from_ref(&path), &options).unwrap();
    assert_eq!(
        (data.labels(), data.classes()),
        (&[1, 0][..], &["0".to_owned(), "1".to_owned()][..])
    );
    assert_eq!(data.images()[0], asymmetric());
}

#[test]
fn id_columns_are_not_labels() {
    let fixture = Fixture::new();
    let schema = "message rows { required int64 id; required binary img; }";
    let columns = [
        Cells::Integers(vec![Some(7), Some(9)]),
        Cells::Bytes(vec![Some(png_by_rows()); 2]),
    ];
    let message = error(&fixture.write(schema, &columns));
    for part in [
        "expected a label column (integers or text) called fine_label, label, labels, class,",
        "shards:DIR,label=COLUMN",
        "found the columns \"id\" (INT64), \"img\" (BYTE_ARRAY)",
    ] {
        assert!(message.contains(part), "{message}");
    }
    // With the text column the classes are known.
    let schema =
        "message rows { required int64 id; required binary img; required binary class (STRING); }";
    let texts = ["dog", "cat"].map(|text| Some(text.as_bytes().to_vec()));
    let columns = [
        Cells::Integers(vec![Some(7), Some(9)]),
        Cells::Bytes(vec![Some(png_by_rows()); 2]),
        Cells::Bytes(texts.to_vec()),
    ];
    let data = read(&fixture.write(schema, &columns)).unwrap();
    assert_eq!(data.labels(), [1, 0]);
    assert_eq!(data.classes(), ["cat", "dog"]);
}

#[test]
fn overlong_text_labels_are_rejected() {
    let fixture = Fixture::new();
    let schema = "message rows { required binary img; required binary class (STRING); }";
    let file = |length: usize| {
        let texts = ["cat".repeat(9), "x".repeat(length)].map(|text| Some(text.into_bytes()));
        let images = Cells::Bytes(vec![Some(png_by_rows()); 2]);
        fixture.write(schema, &[images, Cells::Bytes(texts.to_vec())])
    };
    assert_eq!(read(&file(1024)).unwrap().labels(), [0, 1]);
    let message = error(&file(1025));
    assert!(
        message.ends_with("a label of 1025 bytes in column class, expected at most 1024"),
        "{message}"
    );
}

#[test]
fn label_columns_are_recognized_by_name_or_metadata() {
    let fixture = Fixture::new();
    let path = fixture.path("named.parquet");
    let columns = |schema: &str, metadata: Option<&str>| {
        let columns = [
            Cells::Integers(vec![Some(1)]),
            Cells::Integers(vec![Some(0)]),
            Cells::Bytes(vec![Some(png_by_rows())]),
        ];
        write_columns(&path, schema, metadata.map(Into::into), &columns).unwrap();
        read(&path).map(|data| data.labels()[0])
    };
    let schema = |first: &str, second: &str| {
        format!(
            "message rows {{ required int64 {first}; required int64 {second}; required binary img; }}"
        )
    };
    let listed = r#"{"info": {"features": {"kind": {"names": ["cat", "dog"]}}}}"#;
    assert_eq!(columns(&schema("id", "target"), None).unwrap(), 0);
    assert_eq!(columns(&schema("kind", "target"), Some(listed)).unwrap(), 1);
    assert_eq!(columns(&schema("kind", "label"), Some(listed)).unwrap(), 0);
    columns(&schema("id", "other"), None).unwrap_err();
}

#[test]
fn duplicate_class_names_are_rejected() {
    let fixture = Fixture::new();
    let path = fixture.path("named.parquet");
    let metadata = r#"{"info": {"features": {"label": {"names": ["cat", "dog", "cat"]}}}}"#;
    let columns = [
        Cells::Bytes(vec![Some(png_by_rows())]),
        Cells::Bytes(vec![None]),
        Cells::Integers(vec![Some(0)]),
    ];
    write_columns(&path, SCHEMA, Some(metadata.into()), &columns).unwrap();
    assert_eq!(
        error(&path),
        "FILE: expected unique class names, found \"cat\" again as the name of class 2"
    );
}

#[test]
fn labels_beyond_the_class_limit_are_rejected() {
    let fixture = Fixture::new();
    for label in [100_000, i64::from(i32::MAX) + 1] {
        let columns = [
            Cells::Bytes(vec![Some(png_by_rows())]),
            Cells::Bytes(vec![None]),
            Cells::Integers(vec![Some(label)]),
        ];
        let message = error(&fixture.write(SCHEMA, &columns));
        assert_eq!(
            message,
            format!("FILE: record 0 has label {label}: expected 0 to 99999")
        );
    }
}

#[test]
fn a_row_without_an_image_is_a_broken_image() {
    let fixture = Fixture::new();
    let columns = [
        Cells::Bytes(vec![Some(png_by_rows()), None, Some(png_by_rows())]),
        Cells::Bytes(vec![None; 3]),
        Cells::Integers(vec![Some(1), Some(0), Some(0)]),
    ];
    let path = fixture.write(SCHEMA, &columns);
    let data = read(&path).unwrap();
    assert_eq!((data.len(), data.labels()), (2, &[1, 0][..]));
    let options = ParquetOptions {
        broken: BrokenImages::Refuse,
        ..ParquetOptions::default()
    };
    let refused = read_parquet("pets", &[path], &options)
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains(", row 1 is not a readable image"),
        "{refused}"
    );
}

#[test]
fn files_are_read_in_the_given_order() {
    let fixture = Fixture::new();
    let whole = pets(2500);
    let (first, second) = whole.clone().split_tail(0.5);
    let files = [fixture.path("a.parquet"), fixture.path("b.parquet")];
    write_parquet(&files[0], &first).unwrap();
    write_parquet(&files[1], &second).unwrap();
    let again = read_parquet("pets", &files, &ParquetOptions::default()).unwrap();
    assert_eq!(again.sha256(), whole.sha256());
    let names = again.image_names().unwrap();
    assert_eq!([&names[0], &names[1251]], ["a.parquet:0", "b.parquet:1"]);
}

#[cfg(feature = "hub")]
#[test]
fn names_stay_with_their_images_in_another_order() {
    let fixture = Fixture::new();
    let path = fixture.path("a.parquet");
    write_parquet(&path, &pets(40)).unwrap();
    let data = read(&path).unwrap();
    let shuffled = data.clone().shuffled(perceiver_ops::RngKey::new(3));
    assert_ne!(shuffled.images(), data.images());
    for (at, name) in shuffled.image_names().unwrap().iter().enumerate() {
        let row: usize = name.strip_prefix("a.parquet:").unwrap().parse().unwrap();
        assert_eq!(shuffled.images()[at], data.images()[row]);
        assert_eq!(shuffled.labels()[at], data.labels()[row]);
    }
}

#[test]
fn fine_and_coarse_labels_are_both_there() {
    let fixture = Fixture::new();
    let path = fixture.path("cifar.parquet");
    write_parquet(&path, &pets(4).with_groups(groups()).unwrap()).unwrap();
    let fine = read(&path).unwrap();
    assert_eq!(
        (fine.labels(), fine.groups()),
        (&[0, 1, 0, 1][..], Some(&groups()))
    );
    let options = ParquetOptions {
        labels: Labels::Coarse,
        ..ParquetOptions::default()
    };
    let coarse = read_parquet("pets", &[path], &options).unwrap();
    assert_eq!(
        (coarse.labels(), coarse.classes()),
        (&[1, 0, 1, 0][..], &groups().names[..])
    );
}

#[test]
fn images_are_downscaled_when_read() {
    let fixture = Fixture::new();
    let path = fixture.path("large.parquet");
    let large = Image::new(8, 12, vec![9; 3 * 8 * 12]).unwrap();
    let data = Dataset::new("large", vec![large], vec![0], vec!["grey".into()]).unwrap();
    write_parquet(&path, &data).unwrap();
    let options = ParquetOptions {
        shorter_side: 4,
        ..ParquetOptions::default()
    };
    let small = read_parquet("large", &[path], &options).unwrap();
    assert_eq!(
        small.images(),
        [Image::new(4, 6, vec![9; 3 * 4 * 6]).unwrap()]
    );
}

#[test]
fn errors_name_the_invalid_cell() {
    let fixture = Fixture::new();
    let file = |image: Option<Vec<u8>>, label| {
        let paths = Cells::Bytes(vec![None; 2]);
        let images = Cells::Bytes(vec![Some(png_by_rows()), image]);
        fixture.write(
            SCHEMA,
            &[images, paths, Cells::Integers(vec![Some(0), label])],
        )
    };
    let png = || Some(png_by_rows());
    assert_eq!(
        error(&file(png(), None)),
        "FILE cannot be read as Parquet: found no value in column label around row 1 of a row group"
    );
    let empty = error(&file(None, Some(1)));
    assert!(
        empty.contains("class \"1\" has no readable image"),
        "{empty}"
    );
    let only = error(&file(Some(b"<html>".to_vec()), Some(1)));
    assert!(only.contains("class \"1\" has no readable image"), "{only}");
    assert!(error(&file(png(), Some(-1))).starts_with("FILE: record 1 has label -1"));
    assert!(error(&file(png(), Some(i64::MAX))).starts_with("FILE: record 1 has label 92233"));
}

#[test]
fn broken_images_are_skipped_with_their_labels_or_refused_by_row() {
    let fixture = Fixture::new();
    let images = [
        Some(png_by_rows()),
        Some(b"<html>".to_vec()),
        Some(png_by_rows()),
    ];
    let columns = [
        Cells::Bytes(images.to_vec()),
        Cells::Bytes(vec![None; 3]),
        Cells::Integers(vec![Some(1), Some(0), Some(0)]),
    ];
    let path = fixture.write(SCHEMA, &columns);
    let data = read(&path).unwrap();
    assert_eq!((data.len(), data.labels()), (2, &[1, 0][..]));
    let options = ParquetOptions {
        broken: BrokenImages::Refuse,
        ..ParquetOptions::default()
    };
    let error = read_parquet("pets", &[path], &options)
        .unwrap_err()
        .to_string();
    assert!(error.contains(", row 1 is not a readable image"), "{error}");
}

#[test]
fn labels_beyond_the_named_classes_are_rejected() {
    let fixture = Fixture::new();
    let path = fixture.path("named.parquet");
    let metadata = r#"{"info": {"features": {"label": {"names": ["cat", "dog"]}}}}"#.to_owned();
    let columns = [
        Cells::Bytes(vec![Some(png_by_rows())]),
        Cells::Bytes(vec![None]),
        Cells::Integers(vec![Some(2)]),
    ];
    write_columns(&path, SCHEMA, Some(metadata), &columns).unwrap();
    assert_eq!(error(&path), "FILE: record 0 has label 2: expected 0 to 1");
}

#[test]
fn unnamed_classes_are_counted_over_all_files() {
    let fixture = Fixture::new();
    let file = |name: &str, labels: &[i64]| {
        let path = fixture.path(name);
        let columns = [
            Cells::Bytes(vec![Some(png_by_rows()); labels.len()]),
            Cells::Bytes(vec![None; labels.len()]),
            Cells::Integers(labels.iter().copied().map(Some).collect()),
        ];
        write_columns(&path, SCHEMA, None, &columns).unwrap();
        path
    };
    let train = [file("a.parquet", &[2, 0]), file("b.parquet", &[3])];
    let mut options = ParquetOptions::default();
    assert!(!lists_classes(&train, &options).unwrap());
    let (labels, classes) = read_labels(&train, &options).unwrap();
    assert_eq!(labels, [2, 0, 3]);
    assert_eq!(classes, ["0", "1", "2", "3"]);
    let test = file("test.parquet", &[1]);
    options.classes = Some(classes.clone());
    let test = read_parquet("pets", &[test], &options).unwrap();
    assert_eq!(
        test.classes(),
        classes,
        "a test split with few classes has those of the training split"
    );
}

#[test]
fn errors_for_missing_columns_list_the_existing_ones() {
    let fixture = Fixture::new();
    let schema = "message rows { required binary text (STRING); required int64 label; }";
    let columns = [
        Cells::Bytes(vec![Some(b"cat".to_vec())]),
        Cells::Integers(vec![Some(0)]),
    ];
    let path = fixture.write(schema, &columns);
    let expected = "FILE: expected an image column called img or image, or only one such column, \
                    found the columns text (BYTE_ARRAY), label (INT64)";
    assert_eq!(error(&path).replace('"', ""), expected);
}

#[test]
fn files_that_are_not_parquet_are_rejected() {
    let fixture = Fixture::new();
    let path = fixture.path("page.parquet");
    let whole = fixture.path("whole.parquet");
    write_parquet(&whole, &pets(3)).unwrap();
    let whole = fs::read(whole).unwrap();
    for bytes in [
        &b""[..],
        b"<html>not found</html>",
        &whole[..whole.len() - 1],
        &whole[1..],
    ] {
        fs::write(&path, bytes).unwrap();
        assert!(error(&path).starts_with("FILE cannot be read as Parquet"));
    }
    fs::remove_file(&path).unwrap();
    assert!(error(&path).starts_with("cannot read FILE"));
}

proptest! {
    #[test]
    fn damaged_files_never_panic(damage in prop::collection::vec((0.0..1.0_f64, any::<u8>()), 1..6), cut in 0_usize..40) {
        let fixture = Fixture::new();
        let path = fixture.path("damaged.parquet");
        write_parquet(&path, &pets(3).with_groups(groups()).unwrap()).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        for (position, byte) in damage {
            let at = (position * bytes.len() as f64) as usize;
            bytes[at] = byte;
        }
        bytes.truncate(bytes.len() - cut / 20 * cut);
        fs::write(&path, bytes).unwrap();
        if let Ok(data) = read(&path) {
            prop_assert!(data.len() <= 3);
        }
    }
}
