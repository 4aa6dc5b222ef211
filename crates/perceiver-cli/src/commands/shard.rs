//! `perceiver shard`: writes a data set as shards.

use std::ffi::OsString;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use perceiver_data::{
    DataError, FolderFiles, ImageFolder, Labels, LoadOptions, MAX_ENCODED_BYTES, ShardWriter,
    Source, Split,
};
use perceiver_files::read_regular;
use perceiver_train::shell_quoted;

use crate::ui::data_progress;
use crate::ui::progress::image_bar;
use crate::ui::terminal;

/// Write a data set as shards: tar files with many images each, in WebDataset format.
///
/// Training streams such data (--dataset shards:DIR), so it may be larger than memory. The files of
/// a folder are copied unchanged, in the order and with the split that training would draw from the
/// folder; other data sets are written as PNG files.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  perceiver shard --dataset folder:photos --output photo-shards
  perceiver train --dataset shards:photo-shards")]
pub(crate) struct Arguments {
    /// Data set to write: cifar100, cifar10, shapes, folder:DIR or hf:USER/NAME.
    #[arg(long, value_name = "DATASET")]
    dataset: Source,

    /// Directory of the shards, which must not exist.
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,

    /// Number of images per shard.
    #[arg(long, value_name = "N", default_value = "1000")]
    shard_size: NonZeroUsize,

    /// Labels to write, classes or their coarse groups: fine or coarse.
    #[arg(long, value_name = "LABELS", default_value = "fine")]
    labels: Labels,

    /// Directory of downloaded data sets.
    #[arg(long, value_name = "DIR", default_value = "data")]
    data_dir: PathBuf,

    /// Random seed of the order and split of a folder.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let Arguments {
        dataset, output, ..
    } = arguments;
    if fs::symlink_metadata(output).is_ok() {
        bail!(
            "--output: expected a new directory, found the existing {}",
            output.display()
        );
    }
    let mut options = LoadOptions {
        data_dir: arguments.data_dir.clone(),
        labels: arguments.labels,
        shorter_side: usize::MAX,
        seed: arguments.seed,
        watcher: data_progress::watcher(),
        ..LoadOptions::default()
    };
    options.listing = dataset.listing(&options)?;
    dataset.check(&options)?;
    if let Some(listing) = &options.listing {
        listing.log_summary();
    }
    // Written under another name first, so that the output is always complete.
    let mut partial = output.clone().into_os_string();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    fs::create_dir(&partial).with_context(|| {
        let partial = partial.display();
        format!("cannot create {partial}; if an interrupted `perceiver shard` left it, remove it")
    })?;
    let written = write(arguments, &options, &partial).and_then(|counts| {
        let context = || {
            format!(
                "cannot rename {} to {}",
                partial.display(),
                output.display()
            )
        };
        fs::rename(&partial, output).with_context(context)?;
        Ok(counts)
    });
    let [train, test, validation] = written.inspect_err(|_| {
        let _ = fs::remove_dir_all(&partial); // the error matters more
    })?;
    tracing::info!(
        "{train} training, {test} test and {validation} validation images are in {}",
        output.display()
    );
    let mut shards = OsString::from("shards:");
    shards.push(output);
    let shards = shell_quoted(shards);
    tracing::info!("try: perceiver train --dataset {shards}");
    terminal::print_path(output)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the splits and the class names, and returns the number of images per split.
fn write(arguments: &Arguments, options: &LoadOptions, folder: &Path) -> Result<[usize; 3]> {
    let mut counts = [0; 3];
    let splits = [Split::Train, Split::Test, Split::Validation];
    for (split, count) in splits.into_iter().zip(&mut counts) {
        let mut writer = ShardWriter::new(folder, split, arguments.shard_size.get());
        let classes = match &arguments.dataset {
            Source::Folder(root) => copy_files(root, split, options, &mut writer)?,
            source => encode(source, split, options, &mut writer)?,
        };
        *count = writer.finish()?;
        if split == Split::Train {
            ShardWriter::write_classes(folder, &classes)?;
        }
    }
    Ok(counts)
}

/// Copies the files of a folder, one in memory at a time, and returns its class names.
fn copy_files(
    root: &Path,
    split: Split,
    options: &LoadOptions,
    writer: &mut ShardWriter,
) -> Result<Vec<String>> {
    let folder = ImageFolder {
        seed: options.seed,
        listing: options.listing.clone(),
        ..ImageFolder::new(root)
    };
    let FolderFiles { files, classes } = folder.files(split)?;
    let bar = image_bar(files.len() as u64, "copying");
    let total = files.len();
    let (mut counts, mut copied) = (vec![0; classes.len()], vec![0; classes.len()]);
    for (path, label) in files {
        counts[label as usize] += 1;
        let bytes = read_regular(&path, MAX_ENCODED_BYTES).map_err(|source| DataError::Io {
            action: "read",
            path: path.clone(),
            source,
        });
        match options.broken.apply(bytes)? {
            Ok(bytes) => {
                let extension = path.extension().unwrap_or_default().to_string_lossy();
                writer.add(&bytes, &extension.to_lowercase(), label)?;
                copied[label as usize] += 1;
            }
            Err(error) => tracing::warn!("{error}; skipped"),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let skipped = total - copied.iter().sum::<usize>();
    if skipped > 0 {
        let name = root.display();
        tracing::warn!(
            "folder:{name}: {skipped} of {total} images cannot be read and were skipped"
        );
    }
    let lost = (0..classes.len()).find(|&class| counts[class] > 0 && copied[class] == 0);
    if let Some(class) = lost.filter(|_| split == Split::Train) {
        return Err(DataError::UnreadableClass {
            name: format!("folder:{}", root.display()),
            class: classes[class].clone(),
            images: counts[class],
        }
        .into());
    }
    Ok(classes)
}

/// Writes the images of a data set that is loaded into memory, and returns its class names.
fn encode(
    source: &Source,
    split: Split,
    options: &LoadOptions,
    writer: &mut ShardWriter,
) -> Result<Vec<String>> {
    let data = source.load(split, options)?;
    let bar = image_bar(data.len() as u64, "writing");
    for (image, &label) in data.images().iter().zip(data.labels()) {
        writer.add(&image.to_png()?, "png", label)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(data.classes().to_vec())
}
