//! `perceiver predict`: classifies images.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Error, Result};
use perceiver_data::Image;
use perceiver_train::{DeviceChoice, Precision, Predictor, TrainError};

use crate::args::checkpoint::CheckpointFlags;
use crate::args::errors::at_least_one;
use crate::args::inputs::ImageInputs;
use crate::args::output_format::{Format, Prediction, Printer};
use crate::ui::progress::image_bar;
use crate::ui::terminal;

/// The number of images per batch.
const BATCH_SIZE: usize = 64;

/// Classify images.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "An unreadable image is reported on standard error; the others are still classified. Predictions are in the order of the images, and those of a folder or a pattern are sorted by path.

Exit codes: 0 if all images were classified, 1 if one was unreadable or missing or another error occurred, 2 for invalid arguments.

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

    /// PNG, JPEG, WebP, BMP, GIF or TIFF files, folders of them at any depth, patterns such as
    /// '*.jpg', or - for a list on standard input, one path per line.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,

    /// Read NUL-separated lists on standard input, as written by `find -print0`.
    #[arg(long, short = '0')]
    null: bool,

    /// Show the K most probable classes.
    #[arg(long, value_name = "K", default_value_t = 5, value_parser = at_least_one)]
    top_k: usize,

    /// Output format.
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    format: Format,

    /// Short for --format json.
    #[arg(long, conflicts_with = "format")]
    json: bool,

    /// Average the probabilities of each image and its mirror image, or not [default: as in
    /// training].
    #[arg(long, visible_alias = "test-time-flip", value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    flip_average: Option<bool>,

    /// Device to compute on: auto, cpu, cuda, cuda:N or metal.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,

    /// Compute precision: f32, bf16, or on an NVIDIA GPU tf32.
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
    crate::runtime::kernels::log_bf16(checkpoint.device(), arguments.precision);
    let predictor = Predictor::new(checkpoint, arguments.flip_average);
    let list = ImageInputs::read(&arguments.images, arguments.null)?;
    let mut all_read = list.errors.is_empty();
    list.errors.iter().for_each(report);

    // A bar would be interleaved with predictions on the same terminal.
    let is_in_the_way = format != Format::Table && io::stdout().is_terminal();
    let count = list.paths.len();
    let bar = (count > BATCH_SIZE && !is_in_the_way).then(|| image_bar(count as u64, "predicting"));
    let mut printer = Printer::new(format)?;
    for paths in list.paths.chunks(BATCH_SIZE) {
        let mut read = Vec::with_capacity(paths.len());
        for (path, result) in paths.iter().zip(predictor.open_all(paths)) {
            match result {
                Ok(image) => read.push((path.as_path(), image)),
                Err(error) => {
                    all_read = false;
                    report(&error.into());
                }
            }
        }
        for prediction in predict(&predictor, read, arguments.top_k)? {
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

/// Reports an image that cannot be read and continues.
fn report(error: &Error) {
    terminal::error(crate::in_one_line(error));
}

fn predict<'a>(
    predictor: &'a Predictor,
    images: Vec<(&'a Path, Image)>,
    top_k: usize,
) -> Result<Vec<Prediction<'a>>> {
    if images.is_empty() {
        return Ok(Vec::new());
    }
    let (paths, images): (Vec<&Path>, Vec<Image>) = images.into_iter().unzip();
    let probabilities = predictor.probabilities(&images);
    let probabilities = probabilities.map_err(|error| match error {
        TrainError::ScoreNotFinite { image, .. } => {
            let name = paths.get(image).map(|path| path.display().to_string());
            Error::new(error).context(name.unwrap_or_default())
        }
        other => other.into(),
    })?;
    let named = paths.into_iter().zip(probabilities);
    Ok(named
        .map(|(path, probabilities)| {
            Prediction::new(path, predictor.top_classes(&probabilities, top_k))
        })
        .collect())
}
