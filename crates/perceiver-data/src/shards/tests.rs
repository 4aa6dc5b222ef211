//! What holds for shards of both kinds, from files to batches.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::augment::Augmentation;
use crate::batches::Batch;
use crate::broken_pictures::BrokenPictures;
use crate::dataset::{Dataset, Split};
use crate::error::Result;
use crate::image::Image;
use crate::loader::{Loader, LoaderConfig, Part};
use crate::mix::Mixing;
use crate::normalization::Normalization;
use crate::pictures::Pictures;
use crate::preprocess::Preprocessing;
use crate::source::{LoadOptions, Source};
use crate::watcher::Watcher;

/// Pictures of different sizes and colours.
fn picture(number: usize) -> Image {
    let (height, width) = (3 + number % 3, 4);
    let pixels = (0..3 * height * width).map(|at| (number * 41 + at * 7) as u8);
    Image::new(height, width, pixels.collect()).unwrap()
}

/// Writes `train` and 5 test pictures of three classes.
fn write(root: &Path, train: usize, per_shard: usize) {
    for (split, count) in [(Split::Train, train), (Split::Test, 5)] {
        let mut writer = ShardWriter::new(root, split, per_shard);
        for number in 0..count {
            let png = picture(number).to_png().unwrap();
            writer.add(&png, "png", (number % 3) as u32).unwrap();
        }
        assert_eq!(writer.finish().unwrap(), count);
    }
    let classes = ["ant", "bee", "cat"].map(String::from);
    ShardWriter::write_classes(root, &classes).unwrap();
}

fn surveyed(root: &Path) -> Streamed {
    let pictures = ShardFolder::open(root).unwrap();
    let pictures = pictures.split(Split::Train, 64).unwrap();
    let survey = Survey::of(
        &pictures,
        Part::WHOLE,
        BrokenPictures::Skip,
        &Watcher::default(),
    );
    pictures.surveyed(&survey.unwrap()).unwrap()
}

fn loader(pictures: impl Into<Pictures>, config: LoaderConfig) -> Loader {
    let preprocessing = Preprocessing {
        image_size: 5,
        antialias: false,
        normalization: Normalization {
            mean: vec![128.0; 3],
            variance: vec![5000.0; 3],
        },
    };
    Loader::new(pictures, preprocessing, config).unwrap()
}

/// Indices, labels, and the bits of pixels and of what they are mixed with, of some batches.
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
fn in_order_a_stream_is_what_memory_holds() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), 23, 7);
    let source = Source::Shards(root.path().into());
    let data = source.load(Split::Train, &LoadOptions::default()).unwrap();
    assert_eq!((data.len(), data.classes()[2].as_str()), (23, "cat"));
    assert_eq!(data.images()[11], picture(11));
    let streamed = surveyed(root.path());
    assert_eq!(streamed.image(11).unwrap(), picture(11));
    let config = || LoaderConfig {
        batch_size: 6,
        ..LoaderConfig::default()
    };
    let expected = contents(loader(Arc::new(data), config()).epoch(0, 1));
    let streamed = loader(streamed, config());
    assert_eq!(streamed.batches_per_epoch(), 4);
    assert_eq!(contents(streamed.epoch(0, 1)), expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn parts_are_those_of_the_whole_and_an_epoch_can_be_entered_anywhere(
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

    /// Whatever happens to a file, it is refused or read, and nothing panics.
    #[test]
    fn damage_is_an_error_or_nothing(at in 0_usize..4096, byte: u8, cut in 0_usize..8192) {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), 4, 4);
        let path = root.path().join("train-00000.tar");
        let mut bytes = fs::read(&path).unwrap();
        let len = bytes.len();
        bytes[at % len] = byte;
        bytes.truncate(len - cut % len);
        fs::write(&path, bytes).unwrap();
        let pictures = ShardFolder::open(root.path()).unwrap().split(Split::Train, 64);
        if let Ok(pictures) = pictures {
            let survey = Survey::of(&pictures, Part::WHOLE, BrokenPictures::Skip, &Watcher::default());
            let _ = survey.and_then(|survey| pictures.surveyed(&survey));
        }
    }
}

#[test]
fn surveys_of_parts_are_that_of_the_whole() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), 20, 3);
    let pictures = ShardFolder::open(root.path()).unwrap();
    let pictures = pictures.split(Split::Train, 64).unwrap();
    let survey =
        |part| Survey::of(&pictures, part, BrokenPictures::Refuse, &Watcher::default()).unwrap();
    let whole = survey(Part::WHOLE);
    let mut joined = survey(Part { index: 2, of: 3 });
    joined.join(survey(Part { index: 0, of: 3 }));
    joined.join(survey(Part { index: 1, of: 3 }));
    assert_eq!(joined, whole);
    let images: Vec<_> = (0..20).map(picture).collect();
    let memory = Dataset::new("x", images, vec![0; 20], vec!["a".into()]).unwrap();
    let expected = Normalization::adapt(&memory).unwrap();
    assert_eq!(Normalization::of_sums(whole.sums(), "x").unwrap(), expected);
}

#[test]
fn the_hash_is_that_of_labels_and_bytes() {
    let hash = |train| {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), train, 3);
        surveyed(root.path()).sha256().to_owned()
    };
    assert_eq!(hash(8), hash(8));
    assert_ne!(hash(8), hash(7));
}

#[test]
fn broken_pictures_are_skipped_or_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), 6, 6);
    let mut writer = ShardWriter::new(root.path().join("train"), Split::Train, 9);
    fs::create_dir(root.path().join("train")).unwrap();
    writer.add(b"no picture", "jpg", 1).unwrap();
    writer.finish().unwrap();
    let pictures = ShardFolder::open(root.path()).unwrap();
    let pictures = pictures.split(Split::Train, 64).unwrap();
    let survey = |broken| Survey::of(&pictures, Part::WHOLE, broken, &Watcher::default());
    let error = survey(BrokenPictures::Refuse).unwrap_err().to_string();
    assert!(error.contains("train-00000.tar, picture 0"), "{error}");
    let kept = pictures
        .clone()
        .surveyed(&survey(BrokenPictures::Skip).unwrap());
    assert_eq!((pictures.len(), kept.unwrap().len()), (7, 6));
}

#[test]
fn a_share_is_drawn_from_all_over() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), 300, 50);
    let all = surveyed(root.path());
    let (train, validation) = all.clone().split_drawn(0.1, 5);
    assert_eq!((train.len(), validation.len()), (270, 30));
    let positions = |set: &Streamed| (0..set.len()).map(|i| set.position(i)).collect::<Vec<_>>();
    let drawn = positions(&validation);
    let tens: Vec<_> = drawn.iter().map(|position| position / 10).collect();
    assert_eq!(tens, (0..30).collect::<Vec<_>>());
    for class in 0..3 {
        // Every tenth would be of one class only where there are ten classes in turn.
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
fn labels_have_to_be_those_of_classes() {
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

#[cfg(feature = "parquet")]
#[test]
fn parquet_is_read_by_rows() {
    let root = tempfile::tempdir().unwrap();
    let data = |count: usize| {
        let images = (0..count).map(picture).collect();
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
        assert_eq!(streamed.image(index).unwrap(), picture(index));
        assert_eq!(streamed.label(index) as usize, index % 3);
    }
    let batches = contents(loader(streamed, training(4, 12, Part::WHOLE)).epoch(0, 0));
    let mut indices: Vec<_> = batches.into_iter().flat_map(|batch| batch.0).collect();
    indices.sort_unstable();
    assert_eq!(indices, (0..25).collect::<Vec<_>>());
}
