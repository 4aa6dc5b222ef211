//! Tests of both kinds of shards, from files to batches.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::dataset::image::Image;
use crate::dataset::part::Part;
use crate::dataset::{Dataset, Split};
use crate::error::Result;
use crate::formats::broken_images::BrokenImages;
use crate::formats::load_options::LoadOptions;
use crate::loader::Loader;
use crate::loader::batch::Batch;
use crate::loader::config::LoaderConfig;
use crate::progress::ProgressCallback;
use crate::source::Source;
use crate::source::samples::Samples;
use crate::transforms::augment::Augmentation;
use crate::transforms::fit::Fit;
use crate::transforms::mixup_cutmix::Mixing;
use crate::transforms::normalize::Normalization;
use crate::transforms::preprocess::Preprocessing;

/// Returns images of different sizes and colours.
fn image(number: usize) -> Image {
    let (height, width) = (3 + number % 3, 4);
    let pixels = (0..3 * height * width).map(|at| (number * 41 + at * 7) as u8);
    Image::new(height, width, pixels.collect()).unwrap()
}

/// Writes `train` training and 5 test images of three classes.
fn write(root: &Path, train: usize, per_shard: usize) {
    for (split, count) in [(Split::Train, train), (Split::Test, 5)] {
        let mut writer = ShardWriter::new(root, split, per_shard);
        for number in 0..count {
            let png = image(number).to_png().unwrap();
            writer.add(&png, "png", (number % 3) as u32).unwrap();
        }
        assert_eq!(writer.finish().unwrap(), count);
    }
    let classes = ["ant", "bee", "cat"].map(String::from);
    ShardWriter::write_classes(root, &classes).unwrap();
}

fn surveyed(root: &Path) -> ShardedDataset {
    let shards = ShardFolder::open(root).unwrap();
    let shards = shards.split(Split::Train, 64).unwrap();
    let survey = Survey::of(
        &shards,
        Part::WHOLE,
        BrokenImages::Skip,
        &ProgressCallback::default(),
    );
    shards.surveyed(&survey.unwrap()).unwrap()
}

fn loader(samples: impl Into<Samples>, config: LoaderConfig) -> Loader {
    Loader::new(samples, preprocessing(), config).unwrap()
}

fn preprocessing() -> Preprocessing {
    Preprocessing {
        image_size: 5,
        antialias: false,
        fit: Fit::Stretch,
        normalization: Normalization {
            mean: vec![128.0; 3],
            variance: vec![5000.0; 3],
        },
        transformers: None,
    }
}

/// Indices, labels, and the bits of pixels and mixing partners of some batches.
type Content = (Vec<usize>, Vec<u32>, Vec<u32>, Vec<u32>);

fn contents(batches: impl Iterator<Item = Result<Batch>>) -> Vec<Content> {
    let bits = |tensor: &candle_core::Tensor| {
        let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let content = |batch: Result<Batch>| {
        let batch = batch.unwrap();
        let mixed = batch.mixed.map_or(Vec::new(), |mixed| {
            let labels = mixed.labels.to_vec1::<u32>().unwrap();
            [labels, bits(&mixed.shares)].concat()
        });
        let labels = batch.labels.to_vec1().unwrap();
        (batch.indices, labels, bits(&batch.images), mixed)
    };
    batches.map(content).collect()
}

fn training(batch_size: usize, shuffle_buffer: usize, part: Part) -> LoaderConfig {
    let mixing = Mixing {
        mixup: 0.4,
        probability: 0.7,
        ..Mixing::NONE
    };
    LoaderConfig {
        batch_size,
        shuffle: true,
        shuffle_buffer,
        seed: 3,
        part,
        augmentation: Some(Augmentation {
            horizontal_flip: true,
            mixing,
            ..Augmentation::default()
        }),
        ..LoaderConfig::default()
    }
}

#[test]
fn a_stream_in_order_equals_the_data_in_memory() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), 23, 7);
    let source: Source = format!("shards:{}", root.path().display()).parse().unwrap();
    let data = source.load(Split::Train, &LoadOptions::default()).unwrap();
    assert_eq!((data.len(), data.classes()[2].as_str()), (23, "cat"));
    assert_eq!(data.images()[11], image(11));
    let streamed = surveyed(root.path());
    assert_eq!(streamed.image(11).unwrap(), image(11));
    let config = || LoaderConfig {
        batch_size: 6,
        ..LoaderConfig::default()
    };
    let expected = contents(loader(Arc::new(data), config()).epoch(0, 1));
    let streamed = loader(streamed, config());
    assert_eq!(streamed.batches_per_epoch(), 4);
    assert_eq!(contents(streamed.epoch(0, 1)), expected);
}

#[test]
fn streams_cannot_be_balanced() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), 9, 4);
    let streamed = surveyed(root.path());
    let name = streamed.name().to_owned();
    let config = LoaderConfig {
        balanced: true,
        ..LoaderConfig::default()
    };
    let error = Loader::new(streamed, preprocessing(), config).err();
    let expected = format!("balanced: expected false for {name}, whose images are streamed");
    let message = error.unwrap().to_string();
    assert!(message.starts_with(&expected), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn parts_form_the_whole_epoch_from_any_batch_on(
        train in 1_usize..40, per_shard in 1_usize..15, batch_size in 1_usize..9, buffer in 0_usize..30, ranks in 1_usize..5,
    ) {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), train, per_shard);
        let streamed = surveyed(root.path());
        let whole = loader(streamed.clone(), training(batch_size, buffer, Part::WHOLE));
        let expected = contents(whole.epoch(2, 0));
        let mut indices: Vec<_> = expected.iter().flat_map(|batch| batch.0.clone()).collect();
        indices.sort_unstable();
        prop_assert_eq!(indices, (0..train).collect::<Vec<_>>());
        let labels_fit = expected.iter().all(|(indices, labels, ..)| {
            indices.iter().zip(labels).all(|(index, label)| index % 3 == *label as usize)
        });
        prop_assert!(labels_fit);
        for first in 0..expected.len() {
            prop_assert_eq!(&contents(whole.epoch(2, first)), &expected[first..]);
        }
        let parts: Vec<_> = (0..ranks)
            .map(|index| {
                let part = Part { index, of: ranks };
                contents(loader(streamed.clone(), training(batch_size, buffer, part)).epoch(2, 0))
            })
            .collect();
        for (number, batch) in expected.iter().enumerate() {
            let of_parts = parts.iter().map(|part| part[number].clone());
            let together: Vec<usize> = of_parts.clone().flat_map(|part| part.0).collect();
            prop_assert_eq!(&together, &batch.0);
            let pixels: Vec<u32> = of_parts.flat_map(|part| part.2).collect();
            prop_assert_eq!(&pixels, &batch.2);
        }
    }

    /// Any damaged file is rejected or read, without a panic.
    #[test]
    fn damaged_shards_never_panic(at in 0_usize..4096, byte: u8, cut in 0_usize..8192) {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), 4, 4);
        let path = root.path().join("train-00000.tar");
        let mut bytes = fs::read(&path).unwrap();
        let len = bytes.len();
        bytes[at % len] = byte;
        bytes.truncate(len - cut % len);
        fs::write(&path, bytes).unwrap();
        let shards = ShardFolder::open(root.path()).unwrap().split(Split::Train, 64);
        if let Ok(shards) = shards {
            let survey = Survey::of(&shards, Part::WHOLE, BrokenImages::Skip, &ProgressCallback::default());
            let _ = survey.and_then(|survey| shards.surveyed(&survey));
        }
    }
}

#[test]
fn joined_surveys_of_parts_equal_that_of_the_whole() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), 20, 3);
    let shards = ShardFolder::open(root.path()).unwrap();
    let shards = shards.split(Split::Train, 64).unwrap();
    let survey = |part| {
        Survey::of(
            &shards,
            part,
            BrokenImages::Refuse,
            &ProgressCallback::default(),
        )
        .unwrap()
    };
    let whole = survey(Part::WHOLE);
    let mut joined = survey(Part { index: 2, of: 3 });
    joined.join(survey(Part { index: 0, of: 3 }));
    joined.join(survey(Part { index: 1, of: 3 }));
    assert_eq!(joined, whole);
    let images: Vec<_> = (0..20).map(image).collect();
    let memory = Dataset::new("x", images, vec![0; 20], vec!["a".into()]).unwrap();
    let expected = Normalization::adapt(&memory).unwrap();
    assert_eq!(Normalization::of_sums(whole.sums(), "x").unwrap(), expected);
}

#[test]
fn the_hash_depends_on_labels_and_bytes() {
    let hash = |train| {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), train, 3);
        surveyed(root.path()).sha256().to_owned()
    };
    assert_eq!(hash(8), hash(8));
    assert_ne!(hash(8), hash(7));
}

#[test]
fn broken_images_are_skipped_or_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), 6, 6);
    let mut writer = ShardWriter::new(root.path().join("train"), Split::Train, 9);
    fs::create_dir(root.path().join("train")).unwrap();
    writer.add(b"no picture", "jpg", 1).unwrap();
    writer.finish().unwrap();
    let shards = ShardFolder::open(root.path()).unwrap();
    let shards = shards.split(Split::Train, 64).unwrap();
    let survey = |broken| Survey::of(&shards, Part::WHOLE, broken, &ProgressCallback::default());
    let error = survey(BrokenImages::Refuse).unwrap_err().to_string();
    assert!(error.contains("train-00000.tar, image 0"), "{error}");
    let kept = shards
        .clone()
        .surveyed(&survey(BrokenImages::Skip).unwrap());
    assert_eq!((shards.len(), kept.unwrap().len()), (7, 6));
}

#[test]
fn the_validation_split_is_spread_over_the_data() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), 300, 50);
    let all = surveyed(root.path());
    let (train, validation) = all.clone().split_drawn(0.1, 5);
    assert_eq!((train.len(), validation.len()), (270, 30));
    let positions =
        |set: &ShardedDataset| (0..set.len()).map(|i| set.position(i)).collect::<Vec<_>>();
    let drawn = positions(&validation);
    let tens: Vec<_> = drawn.iter().map(|position| position / 10).collect();
    assert_eq!(tens, (0..30).collect::<Vec<_>>());
    for class in 0..3 {
        // With ten alternating classes, every tenth image would be of one class only.
        let count = drawn
            .iter()
            .filter(|&&position| position % 3 == class)
            .count();
        assert!((4..=16).contains(&count), "{count} of 30");
    }
    let mut together = [positions(&train), drawn.clone()].concat();
    together.sort_unstable();
    assert_eq!(together, positions(&all));
    assert_eq!(positions(&all.clone().split_drawn(0.1, 5).1), drawn);
    assert_ne!(positions(&all.split_drawn(0.1, 6).1), drawn);
}

#[test]
fn labels_out_of_range_are_rejected() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), 6, 6);
    ShardWriter::write_classes(root.path(), &["ant".into(), "bee".into()]).unwrap();
    let folder = ShardFolder::open(root.path()).unwrap();
    let error = folder.split(Split::Train, 64).unwrap_err().to_string();
    let expected = "train-00000.tar: record 2 has label 2: expected 0 to 1";
    assert!(error.ends_with(expected), "{error}");
    fs::remove_file(root.path().join("classes.txt")).unwrap();
    let folder = ShardFolder::open(root.path()).unwrap();
    assert_eq!(
        folder.split(Split::Test, 64).unwrap().classes(),
        ["0", "1", "2"]
    );
}

type File<'a> = (&'a str, &'a [u8]);

/// Writes a tar file of these files.
fn write_tar(path: &Path, files: &[File<'_>]) {
    let mut tar = ::tar::Builder::new(fs::File::create(path).unwrap());
    for (name, content) in files {
        let mut header = ::tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, *content).unwrap();
    }
    tar.into_inner().unwrap();
}

#[test]
fn webdataset_dotted_keys_are_reported_and_rejected_if_a_class_is_lost() {
    let root = tempfile::tempdir().unwrap();
    let png = image(1).to_png().unwrap();
    let train = root.path().join("train-0.tar");
    let split = || {
        let folder = ShardFolder::open(root.path()).unwrap();
        folder.split(Split::Train, 64)
    };
    write(root.path(), 1, 9);
    fs::remove_file(root.path().join("train-00000.tar")).unwrap();
    let files: [File<'_>; 6] = [
        ("22.05_0000.png", &png),
        ("22.05_0000.cls", b"0"),
        ("0001.png", &png),
        ("0001.cls", b"1"),
        ("22.05_0003.png", &png),
        ("22.05_0003.cls", b"0"),
    ];
    write_tar(&train, &files);
    for listed in [true, false] {
        if !listed {
            fs::remove_file(root.path().join("classes.txt")).unwrap();
        }
        let error = split().unwrap_err().to_string();
        let class = if listed { "\"ant\"" } else { "\"0\"" };
        let expected = format!(
            "expected images of class {class}, found none, but 4 files that belong to no sample, such as 22.05_0000.png"
        );
        assert!(error.contains(&expected), "{error}");
    }
    // If the class has other images, the rest is read.
    write_tar(
        &train,
        &[&files[..], &[("5.png", &png), ("5.cls", b"0")]].concat(),
    );
    let split = split().unwrap();
    assert_eq!((split.label(0), split.label(1), split.len()), (1, 0, 2));
}

#[test]
fn own_shards_have_no_unpaired_files() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), 12, 5);
    for shard in ["train-00000.tar", "train-00002.tar", "test-00000.tar"] {
        let index = tar::index(&root.path().join(shard)).unwrap();
        assert!(!index.labels.is_empty());
        assert_eq!(index.unpaired, unpaired_files::UnpairedFiles::default());
    }
}

#[test]
fn sparse_labels_are_rejected_unless_the_classes_are_named() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), 1, 9);
    let png = image(1).to_png().unwrap();
    let files: [File<'_>; 6] = [
        ("a.png", &png),
        ("a.cls", b"0"),
        ("b.png", &png),
        ("b.cls", b"1000"),
        ("c.png", &png),
        ("c.cls", b"2000"),
    ];
    write_tar(&root.path().join("train-00000.tar"), &files);
    let classes = root.path().join("classes.txt");
    fs::remove_file(&classes).unwrap();
    let folder = ShardFolder::open(root.path()).unwrap();
    let error = folder.split(Split::Train, 64).unwrap_err().to_string();
    let expected = "found 3 distinct labels up to 2000, none from 1 to 999; if they are class indices, list all class names";
    assert!(error.contains(expected), "{error}");
    let names: Vec<String> = (0..2001).map(|class| format!("class {class}")).collect();
    fs::write(&classes, names.join("\n")).unwrap();
    let folder = ShardFolder::open(root.path()).unwrap();
    assert_eq!(
        folder.split(Split::Train, 64).unwrap().classes().len(),
        2001
    );
}

#[test]
fn a_test_split_is_indexed_by_the_given_classes() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), 6, 6);
    let folder = ShardFolder::open(root.path()).unwrap();
    let labels = |classes: &[&str]| {
        let classes: Vec<String> = classes.iter().map(ToString::to_string).collect();
        let test = folder.split_of_classes(Split::Test, 64, &classes)?;
        assert_eq!(test.classes(), classes);
        Ok::<_, crate::DataError>((0..test.len()).map(|at| test.label(at)).collect::<Vec<_>>())
    };
    assert_eq!(labels(&["ant", "bee", "cat"]).unwrap(), [0, 1, 2, 0, 1]);
    assert_eq!(
        labels(&["cat", "dog", "bee", "ant"]).unwrap(),
        [3, 2, 0, 3, 2]
    );
    let error = labels(&["cat", "bee"]).unwrap_err().to_string();
    assert!(
        error.contains("test-00000.tar: expected images of the classes"),
        "{error}"
    );
}

#[cfg(feature = "parquet")]
#[test]
fn parquet_is_read_by_rows() {
    let root = tempfile::tempdir().unwrap();
    let data = |count: usize| {
        let images = (0..count).map(image).collect();
        let labels = (0..count).map(|number| (number % 3) as u32).collect();
        let classes = ["ant", "bee", "cat"].map(String::from).to_vec();
        Dataset::new("pictures", images, labels, classes).unwrap()
    };
    for (file, count) in [("train-0.parquet", 25), ("test-0.parquet", 4)] {
        crate::write_parquet(&root.path().join(file), &data(count)).unwrap();
    }
    let streamed = surveyed(root.path());
    assert_eq!(
        (streamed.len(), streamed.classes()[0].as_str()),
        (25, "ant")
    );
    for index in [24, 0, 13] {
        assert_eq!(streamed.image(index).unwrap(), image(index));
        assert_eq!(streamed.label(index) as usize, index % 3);
    }
    let batches = contents(loader(streamed, training(4, 12, Part::WHOLE)).epoch(0, 0));
    let mut indices: Vec<_> = batches.into_iter().flat_map(|batch| batch.0).collect();
    indices.sort_unstable();
    assert_eq!(indices, (0..25).collect::<Vec<_>>());
}

#[cfg(feature = "parquet")]
fn write_pets(path: &Path, classes: [&str; 3], count: usize) {
    let images = (0..count).map(image).collect();
    let labels = (0..count).map(|number| (number % 3) as u32).collect();
    let classes = classes.map(String::from).to_vec();
    let pets = Dataset::new("pets", images, labels, classes).unwrap();
    crate::write_parquet(path, &pets).unwrap();
}

#[cfg(feature = "parquet")]
#[test]
fn class_order_of_a_parquet_test_split_is_that_of_the_training_split() {
    let root = tempfile::tempdir().unwrap();
    write_pets(
        &root.path().join("train-0.parquet"),
        ["ant", "bee", "cat"],
        6,
    );
    write_pets(
        &root.path().join("test-0.parquet"),
        ["bee", "ant", "cat"],
        4,
    );
    let folder = ShardFolder::open(root.path()).unwrap();
    let test = folder.split(Split::Test, 64).unwrap();
    assert_eq!(test.classes(), ["ant", "bee", "cat"]);
    let labels: Vec<u32> = (0..4).map(|at| test.label(at)).collect();
    assert_eq!(labels, [1, 0, 2, 1], "bee, ant, cat, bee");
    write_pets(
        &root.path().join("test-0.parquet"),
        ["bee", "ant", "eel"],
        4,
    );
    let error = folder.split(Split::Test, 64).unwrap_err().to_string();
    assert!(error.contains("found class \"eel\""), "{error}");
}

#[cfg(feature = "parquet")]
#[test]
fn a_row_without_an_image_is_skipped_or_refused_by_name() {
    use crate::formats::parquet::writer::{Cells, write_columns};
    let root = tempfile::tempdir().unwrap();
    write_pets(
        &root.path().join("test-0.parquet"),
        ["ant", "bee", "cat"],
        4,
    );
    let schema = "message rows {
        optional group image { optional binary bytes; }
        optional int64 label;
    }";
    let png = |at| Some(image(at).to_png().unwrap());
    let columns = [
        Cells::Bytes(vec![png(0), None, png(1)]),
        Cells::Integers(vec![Some(0), Some(1), Some(1)]),
    ];
    let path = root.path().join("train-0.parquet");
    write_columns(&path, schema, None, &columns).unwrap();
    let kept = surveyed(root.path());
    assert_eq!((kept.len(), kept.label(1)), (2, 1));
    assert_eq!(kept.image(1).unwrap(), image(1));
    let folder = ShardFolder::open(root.path()).unwrap();
    let all = folder.split(Split::Train, 64).unwrap();
    let refused = Survey::of(
        &all,
        Part::WHOLE,
        BrokenImages::Refuse,
        &ProgressCallback::default(),
    );
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("train-0.parquet, image 1 is not"), "{error}");
}

#[cfg(feature = "parquet")]
#[test]
fn columns_of_parquet_shards_are_parsed_from_the_source() {
    use crate::formats::parquet::writer::{Cells, write_columns};
    let root = tempfile::tempdir().unwrap();
    let schema = "message rows { required int64 kind; required int64 id; required binary photo; required binary thumbnail; }";
    for file in ["train-0.parquet", "test-0.parquet"] {
        let columns = [
            Cells::Integers(vec![Some(1), Some(0)]),
            Cells::Integers(vec![Some(7), Some(8)]),
            Cells::Bytes(vec![Some(image(0).to_png().unwrap()); 2]),
            Cells::Bytes(vec![Some(b"none".to_vec()); 2]),
        ];
        write_columns(&root.path().join(file), schema, None, &columns).unwrap();
    }
    let load = |columns: &str| {
        let source: Source = format!("shards:{}{columns}", root.path().display())
            .parse()
            .unwrap();
        source.load(Split::Train, &LoadOptions::default())
    };
    load("").unwrap_err();
    let data = load(",image=photo,label=kind").unwrap();
    assert_eq!((data.labels(), &data.images()[0]), (&[1, 0][..], &image(0)));
}

#[test]
fn images_in_shards_are_named_by_shard_and_key() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), 7, 3);
    let mut shards = surveyed(root.path());
    let names = shards.image_names().unwrap();
    assert_eq!(names.len(), 7);
    assert_eq!(
        names
            .iter()
            .collect::<std::collections::BTreeSet<_>>()
            .len(),
        7
    );
    for (index, name) in names.iter().enumerate() {
        let (shard, key) = name.split_once(':').unwrap();
        let mut archive = ::tar::Archive::new(fs::File::open(root.path().join(shard)).unwrap());
        let mut entries = archive.entries().unwrap().map(std::result::Result::unwrap);
        let mut entry = entries
            .find(|entry| entry.path().unwrap() == Path::new(key))
            .unwrap_or_else(|| panic!("no {name}"));
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        let image = Image::decode(&bytes, Path::new(name)).unwrap();
        assert_eq!(image, shards.image(index).unwrap(), "{name}");
    }
    shards.truncate(2);
    assert_eq!(shards.image_names().unwrap(), names[..2]);
    let memory = format!("shards:{}", root.path().display())
        .parse::<Source>()
        .unwrap();
    let memory = memory.load(Split::Train, &LoadOptions::default()).unwrap();
    assert_eq!(memory.image_names().unwrap(), names);
}
