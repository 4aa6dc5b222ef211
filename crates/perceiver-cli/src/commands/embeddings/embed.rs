//! `perceiver embed`: writes the embeddings of images to a file.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::ValueEnum;
use perceiver_model::Features;
use perceiver_train::{EmbeddedImage, EmbeddingWriter, shell_quoted};

use crate::args::checkpoint::CheckpointFlags;
use crate::args::compute::ComputeFlags;
use crate::args::image_batches::{Reading, for_each_batch};
use crate::args::inputs::ImageInputs;
use crate::args::output_format::percent_encoded;
use crate::commands::embeddings::{features_of, require_format};
use crate::ui::terminal;

/// Write embeddings of images: what the model computes before its head.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The embeddings are in the order of the images, with their names and the checkpoint's fingerprint: in .safetensors in the metadata, in .parquet in columns and metadata, beside .npy in a second file, FILE.npy.json. An unreadable image is reported on standard error and left out. The output is replaced at the end, so an interrupted command leaves an old file as it was.

Exit codes: 0 if all images were embedded, 1 if one was unreadable or missing or another error occurred, 2 for invalid arguments.

Examples:
  perceiver embed --checkpoint runs/photos --output photos.safetensors photos
  perceiver embed --checkpoint runs/photos --output photos.npy 'photos/**/*.jpg'
  find . -name '*.jpg' -print0 \\
      | perceiver embed --checkpoint runs/photos --output photos.npy --null -
  perceiver similar cat.jpg --index photos.safetensors"
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

    /// File to write: .npy, .safetensors or (with the Cargo feature parquet or hub) .parquet.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,

    /// What to write of an image: the input of the head, or all latents.
    #[arg(long, value_enum, value_name = "WHICH", default_value = "pooled")]
    latents: Latents,

    #[command(flatten)]
    compute: ComputeFlags,
}

/// What is written of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Latents {
    /// The input of the head, a vector: the mean of the latents, normalized where the model does;
    /// in Perceiver IO, what the decoder's query reads.
    Pooled,
    /// All latents, an array of latents x width.
    All,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let output = &arguments.output;
    require_format("--output", output)?;
    let checkpoint = arguments.checkpoint.open(arguments.compute.device)?;
    let features = match arguments.latents {
        Latents::Pooled => Features::Pooled,
        Latents::All => Features::Latents,
    };
    let fingerprint = checkpoint.weights_sha256()?;
    let checkpoint = arguments.compute.in_precision(checkpoint)?;
    let name = arguments.checkpoint.shown();
    let mut writer = EmbeddingWriter::create(output, name, &fingerprint, features)?;
    let inputs = ImageInputs::read(&arguments.images, arguments.null)?;
    let reading = Reading {
        shorter_side: checkpoint.config.shorter_side(),
        doing: "embedding",
        prints: false,
    };
    let mut is_empty = true;
    let all_read = for_each_batch(&inputs, reading, &mut |images| {
        let (paths, found) = features_of(&checkpoint, features, images)?;
        is_empty = false;
        Ok(writer.append(paths.into_iter().map(embedded).collect(), &found)?)
    })?;
    if is_empty {
        bail!(
            "{}: not written, as no image could be read",
            output.display()
        );
    }
    let count = writer.finish()?;
    tracing::info!("embeddings of {count} images are in {}", output.display());
    tracing::info!(
        "try: perceiver similar IMAGE --index {}",
        shell_quoted(output)
    );
    terminal::print_path(output)?;
    Ok(if all_read {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Returns the name of an image as files of embeddings have it.
fn embedded(path: &Path) -> EmbeddedImage {
    EmbeddedImage {
        image: path.to_string_lossy().into_owned(),
        image_percent_encoded: percent_encoded(path.as_os_str()),
    }
}
