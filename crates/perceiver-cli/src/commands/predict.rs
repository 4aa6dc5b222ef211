//! `perceiver predict`: classifies images.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use perceiver_data::Image;
use perceiver_train::{DeviceChoice, Precision, Predictor};

use crate::args::checkpoint::CheckpointFlags;
use crate::args::errors::at_least_one;
use crate::args::image_batches::{Reading, for_each_batch, with_name};
use crate::args::inputs::ImageInputs;
use crate::args::output_format::{Format, Prediction, Printer};

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
    let inputs = ImageInputs::read(&arguments.images, arguments.null)?;
    let mut printer = Printer::new(format)?;
    let reading = Reading {
        shorter_side: predictor.checkpoint().config.shorter_side(),
        doing: "predicting",
        prints: format != Format::Table,
    };
    let all_read = for_each_batch(&inputs, reading, &mut |images| {
        for prediction in predict(&predictor, images, arguments.top_k)? {
            printer.print(&prediction)?;
        }
        Ok(())
    })?;
    printer.finish()?;
    Ok(if all_read {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn predict<'a>(
    predictor: &'a Predictor,
    images: Vec<(&'a Path, Image)>,
    top_k: usize,
) -> Result<Vec<Prediction<'a>>> {
    let (paths, images): (Vec<&Path>, Vec<Image>) = images.into_iter().unzip();
    let probabilities = predictor.probabilities(&images);
    let probabilities = probabilities.map_err(|error| with_name(error, &paths))?;
    let named = paths.into_iter().zip(probabilities);
    Ok(named
        .map(|(path, probabilities)| {
            Prediction::new(path, predictor.top_classes(&probabilities, top_k))
        })
        .collect())
}
