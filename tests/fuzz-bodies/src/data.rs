//! Readers of data sets.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use flate2::read::GzDecoder;
use perceiver_data::{
    BrokenImages, Cifar, Dataset, Forward, Image, Labels, ParquetOptions, Part, ProgressCallback,
    ShardFolder, Split, Survey, TarArchive, read_parquet,
};

/// The size to which images are shrunk while reading, as for a small model.
const SHORTER_SIDE: usize = 16;

/// Reads a CIFAR file and its class names. The first byte of the input selects the format, and the
/// second is the number of bytes of class names.
///
/// # Panics
/// If its files cannot be written, or a reader has a bug.
pub fn cifar(input: &[u8]) -> bool {
    let [which, names, rest @ ..] = input else {
        return false;
    };
    let (names, records) = rest.split_at(rest.len().min(usize::from(*names)));
    let root = tempfile::tempdir().unwrap();
    let (cifar, files, named) = match which & 1 {
        0 => (
            Cifar::Ten,
            &[
                "data_batch_1.bin",
                "data_batch_2.bin",
                "data_batch_3.bin",
                "data_batch_4.bin",
                "data_batch_5.bin",
                "test_batch.bin",
            ][..],
            &["batches.meta.txt"][..],
        ),
        _ => (
            Cifar::Hundred,
            &["train.bin", "test.bin"][..],
            &["fine_label_names.txt", "coarse_label_names.txt"][..],
        ),
    };
    let folder = root.path().join(cifar.directory());
    fs::create_dir(&folder).unwrap();
    for name in named {
        fs::write(folder.join(name), names).unwrap();
    }
    for file in files {
        fs::write(folder.join(file), records).unwrap();
    }
    let read = |labels| match cifar.read(root.path(), Split::Test, labels) {
        Ok(data) => require_labels(&data),
        Err(_) => false,
    };
    read(Labels::Fine) | read(Labels::Coarse)
}

/// Decodes an image file.
///
/// # Panics
/// If a reader has a bug.
pub fn image(input: &[u8]) -> bool {
    let Ok(image) = Image::decode(input, Path::new("input")) else {
        return false;
    };
    assert!(image.height() > 0 && image.width() > 0);
    assert_eq!(image.pixels().len(), 3 * image.height() * image.width());
    true
}

/// Reads a Parquet file, as a data set in memory and as a shard.
///
/// # Panics
/// If its files cannot be written, or a reader has a bug.
pub fn parquet(input: &[u8]) -> bool {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("train-00000.parquet");
    fs::write(&file, input).unwrap();
    let options = ParquetOptions {
        shorter_side: SHORTER_SIDE,
        ..ParquetOptions::default()
    };
    let whole = match read_parquet("input", &[file], &options) {
        Ok(data) => require_labels(&data),
        Err(_) => false,
    };
    fs::write(root.path().join("test-00000.parquet"), input).unwrap();
    whole & shards(root.path())
}

/// Reads a tar file, as a shard and as an archive, with and without gzip.
///
/// # Panics
/// If its files cannot be written, or a reader has a bug.
pub fn tar(input: &[u8]) -> bool {
    let root = tempfile::tempdir().unwrap();
    for split in ["train", "test"] {
        fs::write(root.path().join(format!("{split}-00000.tar")), input).unwrap();
    }
    shards(root.path()) | (archive(input) && archive(GzDecoder::new(input)))
}

/// Reads archive entries up to a limit, since a sparse file of a few bytes may have any length.
fn archive(bytes: impl Read) -> bool {
    let mut archive = TarArchive::new(Forward::new(bytes));
    let entries = archive.entries().unwrap().map_while(Result::ok);
    let read = entries.map(|entry| {
        let _ = entry.path_bytes();
        io::copy(&mut entry.take(1 << 20), &mut io::sink()).is_ok()
    });
    read.fold(false, |some, read| some | read)
}

/// Surveys the shards of a folder and decodes their images.
fn shards(root: &Path) -> bool {
    let read = || -> perceiver_data::Result<()> {
        let images = ShardFolder::open(root)?.split(Split::Test, SHORTER_SIDE)?;
        let (skip, watcher) = (BrokenImages::Skip, ProgressCallback::default());
        let survey = Survey::of(&images, Part::WHOLE, skip, &watcher)?;
        let all = images.len();
        let left = images.surveyed(&survey)?.len();
        assert!(0 < left && left <= all);
        Ok(())
    };
    read().is_ok()
}

/// Asserts that every label has a class.
fn require_labels(data: &Dataset) -> bool {
    assert_eq!(data.images().len(), data.labels().len());
    let classes = data.classes().len();
    assert!(
        data.labels()
            .iter()
            .all(|&label| (label as usize) < classes)
    );
    true
}
