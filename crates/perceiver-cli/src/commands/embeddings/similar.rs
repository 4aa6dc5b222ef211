//! `perceiver similar`: finds the images of an index that are nearest to others.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use perceiver_train::{EmbeddedImage, Embeddings, Neighbor, SimilarityMetric};
use serde::Serialize;

use crate::args::checkpoint::CheckpointFlags;
use crate::args::compute::ComputeFlags;
use crate::args::errors::at_least_one;
use crate::args::image_batches::{Reading, for_each_batch};
use crate::args::inputs::ImageInputs;
use crate::args::output_format::percent_encoded;
use crate::commands::embeddings::{features_of, require_format};
use crate::ui::escape;
use crate::ui::terminal;

/// Find the most similar images in a file of embeddings.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The images are embedded with the checkpoint that made the file, named in it; --checkpoint says where it is now. Another checkpoint is an error, since its embeddings are on other scales. An image that is in the file finds itself first. With all latents in the file, all are compared.

Exit codes: 0 on success, 1 if an image was unreadable or missing or another error occurred, 2 for invalid arguments.

Examples:
  perceiver embed --checkpoint runs/photos --output photos.safetensors photos
  perceiver similar cat.jpg --index photos.safetensors
  perceiver similar cat.jpg --index photos.npy --metric euclidean --json"
)]
pub(crate) struct Arguments {
    /// Images to find similar ones of: files, folders, patterns, or - for a list on standard input,
    /// one path per line.
    #[arg(required = true, value_name = "QUERY")]
    images: Vec<PathBuf>,

    /// File of embeddings that `perceiver embed` wrote.
    #[arg(long, value_name = "FILE")]
    index: PathBuf,

    /// Run or checkpoint that made the file: a directory, or USER/NAME[@REVISION] on the Hugging Face
    /// Hub [default: as named in the file].
    #[arg(long, value_name = "DIR|USER/NAME")]
    checkpoint: Option<String>,

    /// Use no network: take models of the Hub from the local cache.
    #[arg(long)]
    offline: bool,

    /// Read NUL-separated lists on standard input, as written by `find -print0`.
    #[arg(long, short = '0')]
    null: bool,

    /// Show the K most similar images.
    #[arg(long, value_name = "K", default_value_t = 5, value_parser = at_least_one)]
    top_k: usize,

    /// What similar means.
    #[arg(long, value_enum, value_name = "METRIC", default_value = "cosine")]
    metric: Metric,

    /// Print one JSON object per query, one per line.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    compute: ComputeFlags,
}

/// What similar means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Metric {
    /// The highest cosine similarity, from -1 to 1.
    Cosine,
    /// The least Euclidean distance, from 0.
    Euclidean,
}

impl Metric {
    fn measure(self) -> SimilarityMetric {
        match self {
            Self::Cosine => SimilarityMetric::Cosine,
            Self::Euclidean => SimilarityMetric::Euclidean,
        }
    }
}

/// The images similar to one.
#[derive(Debug, Serialize)]
struct Found<'a> {
    image: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_percent_encoded: Option<String>,
    similar: Vec<Similar<'a>>,
}

#[derive(Debug, Serialize)]
struct Similar<'a> {
    #[serde(flatten)]
    image: &'a EmbeddedImage,
    #[serde(flatten)]
    score: Score,
}

/// The score of an image, under the name of its metric.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Score {
    Similarity(f64),
    Distance(f64),
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let path = &arguments.index;
    require_format("--index", path)?;
    let index = Embeddings::read(path).with_context(|| format!("--index {}", path.display()))?;
    let named = match &arguments.checkpoint {
        Some(name) => CheckpointFlags::of("--checkpoint", name, arguments.offline),
        None => CheckpointFlags::of(
            "checkpoint of --index",
            &index.header.checkpoint,
            arguments.offline,
        ),
    };
    let checkpoint = named.open(arguments.compute.device)?;
    index.require_checkpoint(path, &checkpoint, named.shown())?;
    let checkpoint = arguments.compute.in_precision(checkpoint)?;
    let inputs = ImageInputs::read(&arguments.images, arguments.null)?;
    let reading = Reading {
        shorter_side: checkpoint.config.shorter_side(),
        doing: "searching",
        prints: true,
    };
    let (width, metric) = (index.header.width(), arguments.metric);
    let all_read = for_each_batch(&inputs, reading, &mut |images| {
        let (paths, found) = features_of(&checkpoint, index.header.features, images)?;
        let rows = found.flatten_from(1)?.to_vec2::<f32>()?;
        for (image, row) in paths.into_iter().zip(rows) {
            if row.len() != width {
                let found = row.len();
                bail!(
                    "--index {}: expected embeddings of {found} values, as the checkpoint makes them, found {width}",
                    path.display()
                );
            }
            let nearest = index.nearest(&row, metric.measure(), arguments.top_k);
            print(&describe(image, &index, &nearest, metric), arguments.json)?;
        }
        Ok(())
    })?;
    Ok(if all_read {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn describe<'a>(
    image: &Path,
    index: &'a Embeddings,
    nearest: &[Neighbor],
    metric: Metric,
) -> Found<'a> {
    let score = |score| match metric {
        Metric::Cosine => Score::Similarity(score),
        Metric::Euclidean => Score::Distance(score),
    };
    Found {
        image: image.to_string_lossy().into_owned(),
        image_percent_encoded: percent_encoded(image.as_os_str()),
        similar: nearest
            .iter()
            .map(|neighbor| Similar {
                image: &index.images[neighbor.row],
                score: score(neighbor.score),
            })
            .collect(),
    }
}

fn print(found: &Found, json: bool) -> Result<()> {
    if json {
        return terminal::print_json(found, false);
    }
    terminal::print(escape::line(&found.image))?;
    for similar in &found.similar {
        let (Score::Similarity(score) | Score::Distance(score)) = similar.score;
        let name = escape::line(&similar.image.image);
        terminal::print(format_args!("  {score:>8.4}  {name}"))?;
    }
    Ok(())
}
