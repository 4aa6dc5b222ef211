//! `perceiver predict`: the most probable classes of pictures.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use perceiver_data::Image;
use perceiver_train::{Checkpoint, DeviceChoice, Views};
use serde::Serialize;

use crate::checkpoint::open;
use crate::terminal;

/// Pictures at a time.
const BATCH_SIZE: usize = 64;

/// Classify pictures.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A picture that cannot be read is reported and the rest goes on; the exit code is then 1.

Examples:
  perceiver predict --checkpoint runs/shapes-quickstart-1 picture.png
  perceiver predict --checkpoint runs/photos --top-k 3 --json *.jpg"
)]
pub(crate) struct Arguments {
    /// Directory of a run or checkpoint.
    #[arg(long, value_name = "DIR")]
    checkpoint: PathBuf,

    /// PNG, JPEG or WebP files.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,

    /// Show the K most probable classes.
    #[arg(long, value_name = "K", default_value_t = 5)]
    top_k: usize,

    /// Print one JSON object a picture.
    #[arg(long)]
    json: bool,

    /// Judge by the mean probabilities of a picture and its mirror image, or not [default: as in training].
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    flip_average: Option<bool>,

    /// Where to compute: auto, cpu, cuda, cuda:N or metal.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
}

/// The most probable classes of a picture.
#[derive(Debug, Serialize)]
struct Prediction<'a> {
    image: String,
    classes: Vec<Candidate<'a>>,
}

#[derive(Debug, Serialize)]
struct Candidate<'a> {
    class: &'a str,
    probability: f32,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let checkpoint = open(&arguments.checkpoint, arguments.device)?;
    let as_in_training = checkpoint.config.data.flip_average;
    let views = Views::new(arguments.flip_average.unwrap_or(as_in_training));
    let mut all_read = true;
    for paths in arguments.images.chunks(BATCH_SIZE) {
        let mut read = Vec::with_capacity(paths.len());
        for path in paths {
            match Image::open(path) {
                Ok(image) => read.push((path.as_path(), image)),
                Err(error) => {
                    all_read = false;
                    eprintln!("error: {error}");
                }
            }
        }
        for prediction in predict(&checkpoint, views, read, arguments.top_k)? {
            show(&prediction, arguments.json)?;
        }
    }
    Ok(if all_read {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn predict<'a>(
    checkpoint: &'a Checkpoint,
    views: Views,
    pictures: Vec<(&Path, Image)>,
    top_k: usize,
) -> Result<Vec<Prediction<'a>>> {
    if pictures.is_empty() {
        return Ok(Vec::new());
    }
    let (paths, images): (Vec<&Path>, Vec<Image>) = pictures.into_iter().unzip();
    let probabilities = checkpoint.classify_by(views, &images)?;
    let predictions = paths
        .iter()
        .zip(probabilities)
        .map(|(path, probabilities)| Prediction {
            image: path.display().to_string(),
            classes: most_probable(&checkpoint.config.classes, &probabilities, top_k),
        });
    Ok(predictions.collect())
}

fn most_probable<'a>(classes: &'a [String], probabilities: &[f32], k: usize) -> Vec<Candidate<'a>> {
    let mut candidates: Vec<Candidate> = classes
        .iter()
        .zip(probabilities)
        .map(|(class, &probability)| Candidate { class, probability })
        .collect();
    candidates.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    candidates.truncate(k);
    candidates
}

fn show(prediction: &Prediction, json: bool) -> Result<()> {
    if json {
        terminal::print(serde_json::to_string(prediction)?)?;
        return Ok(());
    }
    terminal::print(&prediction.image)?;
    for candidate in &prediction.classes {
        let percent = 100.0 * candidate.probability;
        terminal::print(format_args!("  {percent:6.2}%  {}", candidate.class))?;
    }
    Ok(())
}
