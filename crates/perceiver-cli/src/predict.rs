//! `perceiver predict`: the most probable classes of pictures.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Error, Result};
use perceiver_data::{Image, open_all};
use perceiver_train::{Checkpoint, DeviceChoice, Precision, TrainError, Views};

use crate::checkpoint::CheckpointFlags;
use crate::picture_list::PictureList;
use crate::prediction_format::{Format, Prediction, Printer};
use crate::progress::picture_bar;
use crate::terminal;
use crate::wrong_arguments::at_least_one;

/// Pictures at a time.
const BATCH_SIZE: usize = 64;

/// Classify pictures.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A picture that cannot be read is reported on standard error, and the rest goes on. Predictions come in the order of the pictures, those of a folder or a pattern sorted by path.

Exit codes: 0 when all was classified, 1 when something could not be read or found or another error occurred, 2 for wrong arguments.

Examples:
  perceiver predict --checkpoint runs/shapes-quickstart-1 picture.png
  perceiver predict --checkpoint runs/photos --top-k 1 --format table holiday
  perceiver predict --checkpoint runs/photos --format csv 'photos/**/*.jpg' \\
      > predictions.csv
  find . -name '*.jpg' -print0 \\
      | perceiver predict --checkpoint runs/photos --json --null -"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    checkpoint: CheckpointFlags,

    /// PNG, JPEG, WebP, BMP, GIF or TIFF files, folders of them at any depth, patterns such as '*.jpg', or - for a
    /// list on standard input, a path a line.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,

    /// In lists on standard input NUL ends a path, as `find -print0` writes it.
    #[arg(long, short = '0')]
    null: bool,

    /// Show the K most probable classes.
    #[arg(long, value_name = "K", default_value_t = 5, value_parser = at_least_one)]
    top_k: usize,

    /// How to print predictions.
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    format: Format,

    /// Short for --format json.
    #[arg(long, conflicts_with = "format")]
    json: bool,

    /// Judge by the mean probabilities of a picture and its mirror image, or not [default: as in training].
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    flip_average: Option<bool>,

    /// Where to compute: auto, cpu, cuda, cuda:N or metal.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,

    /// In what numbers: f32, bf16, or on an NVIDIA GPU tf32.
    #[arg(long, value_name = "PRECISION", default_value = "f32")]
    precision: Precision,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let format = if arguments.json {
        Format::Json
    } else {
        arguments.format
    };
    let checkpoint = arguments.checkpoint.open(arguments.device)?;
    let checkpoint = checkpoint.in_precision(arguments.precision)?;
    let as_in_training = checkpoint.config.data.flip_average;
    let views = Views::new(arguments.flip_average.unwrap_or(as_in_training));
    let list = PictureList::read(&arguments.images, arguments.null)?;
    let mut all_read = list.errors.is_empty();
    list.errors.iter().for_each(report);

    // A bar and lines between it on the same terminal would be in each other's way.
    let is_in_the_way = format != Format::Table && io::stdout().is_terminal();
    let count = list.paths.len();
    let bar =
        (count > BATCH_SIZE && !is_in_the_way).then(|| picture_bar(count as u64, "predicting"));
    let mut printer = Printer::new(format)?;
    for paths in list.paths.chunks(BATCH_SIZE) {
        let mut read = Vec::with_capacity(paths.len());
        // As training has read its folders' pictures.
        for (path, picture) in paths
            .iter()
            .zip(open_all(paths, checkpoint.config.shorter_side()))
        {
            match picture {
                Ok(image) => read.push((path.as_path(), image)),
                Err(error) => {
                    all_read = false;
                    report(&error.into());
                }
            }
        }
        for prediction in predict(&checkpoint, views, read, arguments.top_k)? {
            printer.print(&prediction)?;
        }
        if let Some(bar) = &bar {
            bar.inc(paths.len() as u64);
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    printer.finish()?;
    Ok(if all_read {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Says what could not be read, whatever else goes on.
fn report(error: &Error) {
    terminal::error(crate::in_one_line(error));
}

fn predict<'a>(
    checkpoint: &'a Checkpoint,
    views: Views,
    pictures: Vec<(&'a Path, Image)>,
    top_k: usize,
) -> Result<Vec<Prediction<'a>>> {
    if pictures.is_empty() {
        return Ok(Vec::new());
    }
    let (paths, images): (Vec<&Path>, Vec<Image>) = pictures.into_iter().unzip();
    let probabilities = checkpoint.classify_by(views, &images);
    let probabilities = probabilities.map_err(|error| match error {
        TrainError::ScoreNotFinite { image, .. } => {
            let name = paths.get(image).map(|path| path.display().to_string());
            Error::new(error).context(name.unwrap_or_default())
        }
        other => other.into(),
    })?;
    let classes = &checkpoint.config.classes;
    let named = paths.into_iter().zip(probabilities);
    Ok(named
        .map(|(path, probabilities)| Prediction::new(path, classes, &probabilities, top_k))
        .collect())
}
