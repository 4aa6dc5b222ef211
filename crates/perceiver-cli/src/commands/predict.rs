//! `perceiver predict`: classifies images.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use perceiver_data::Image;
use perceiver_train::Predictor;

use crate::args::checkpoint::CheckpointFlags;
use crate::args::compute::ComputeFlags;
use crate::args::errors::at_least_one;
use crate::args::flip_average::FlipAverageFlag;
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

    #[command(flatten)]
    flip: FlipAverageFlag,

    #[command(flatten)]
    compute: ComputeFlags,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let format = if arguments.json {
        Format::Json
    } else {
        arguments.format
    };
    let checkpoint = arguments.checkpoint.open(arguments.compute.device)?;
    let checkpoint = arguments.compute.in_precision(checkpoint)?;
    let predictor = Predictor::new(checkpoint, arguments.flip.flip_average);
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
