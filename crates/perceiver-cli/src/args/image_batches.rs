//! Reads the images of a command in batches, and reports those that cannot be read.

use std::io::{self, IsTerminal};
use std::path::Path;

use anyhow::{Error, Result};
use perceiver_data::{Image, open_all};
use perceiver_train::TrainError;

use crate::args::inputs::ImageInputs;
use crate::ui::progress::image_bar;
use crate::ui::terminal;

/// The number of images per batch.
const BATCH_SIZE: usize = 64;

/// How images are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading<'a> {
    /// The shorter side that images are downscaled to, as training decodes the images of folders:
    /// [`CheckpointConfig::shorter_side`](perceiver_train::CheckpointConfig::shorter_side).
    pub(crate) shorter_side: usize,
    /// What is done, before the progress bar.
    pub(crate) doing: &'a str,
    /// Whether results are printed meanwhile, between which a bar on the same terminal would be.
    pub(crate) prints: bool,
}

/// Reads the images of `inputs` and passes them to `each`, in batches and in order. An unreadable
/// image is reported on standard error and left out; returns whether there was none.
///
/// # Errors
/// Those of `each`.
pub(crate) fn for_each_batch<'a>(
    inputs: &'a ImageInputs,
    reading: Reading,
    each: &mut dyn FnMut(Vec<(&'a Path, Image)>) -> Result<()>,
) -> Result<bool> {
    let mut all_read = inputs.errors.is_empty();
    inputs.errors.iter().for_each(report);
    let count = inputs.paths.len();
    let is_in_the_way = reading.prints && io::stdout().is_terminal();
    let bar =
        (count > BATCH_SIZE && !is_in_the_way).then(|| image_bar(count as u64, reading.doing));
    for paths in inputs.paths.chunks(BATCH_SIZE) {
        let mut read = Vec::with_capacity(paths.len());
        for (path, result) in paths.iter().zip(open_all(paths, reading.shorter_side)) {
            match result {
                Ok(image) => read.push((path.as_path(), image)),
                Err(error) => {
                    all_read = false;
                    report(&error.into());
                }
            }
        }
        if !read.is_empty() {
            each(read)?;
        }
        if let Some(bar) = &bar {
            bar.inc(paths.len() as u64);
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    Ok(all_read)
}

/// Reports an image that cannot be read and continues.
fn report(error: &Error) {
    terminal::error(crate::in_one_line(error));
}

/// Names the image of a batch that an error is about.
pub(crate) fn with_name(error: TrainError, paths: &[&Path]) -> Error {
    match error {
        TrainError::ScoreNotFinite { image, .. } | TrainError::FeatureNotFinite { image, .. } => {
            let name = paths.get(image).map(|path| path.display().to_string());
            Error::new(error).context(name.unwrap_or_default())
        }
        other => other.into(),
    }
}
