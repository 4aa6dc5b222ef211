//! `perceiver export`: writes a model as an ONNX file, and compares its results in another engine.

mod samples;
#[cfg(feature = "export-verify")]
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use perceiver_export::{ExportOptions, GraphPreprocessing, OnnxMetadata, OnnxModel, OnnxPrecision};
use perceiver_report::grouped;
use perceiver_train::{Checkpoint, DeviceChoice};

use crate::args::checkpoint::CheckpointFlags;
use crate::args::errors::usage_error;
use crate::args::flip_average::FlipAverageFlag;
use crate::args::license::license;
use crate::ui::escape;
use crate::ui::terminal;

/// Write a model as an ONNX file for other programs.
///
/// The file has standard operators of opset 17, takes any batch size, and names classes, licence and
/// the checksum of the weights in its metadata. Weights of more than 2 GB go to a second file, FILE.data.
///
/// Without --with-preprocessing, the input is `input`, f32 [batch, 3, size, size], normalized as the
/// checkpoint's config.json says; with it, `images`, u8 [batch, height, width, 3] of any height and
/// width. The result is `logits`, or with --softmax `probabilities`, f32 [batch, classes].
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The file is then run in another engine, tract, if the program has the Cargo feature `export-verify`. --samples makes a file for a check in any other.

Examples:
  perceiver export --checkpoint runs/shapes-quickstart-1 --output model.onnx
  perceiver export --checkpoint runs/photos --output photos.onnx \\
      --with-preprocessing --softmax
  perceiver export --checkpoint runs/photos --output small.onnx --precision f16"
)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub(crate) struct Arguments {
    #[command(flatten)]
    checkpoint: CheckpointFlags,

    /// ONNX file to write; it must not exist.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,

    /// Put the preprocessing inside: the input is images of any size, as bytes.
    #[arg(long)]
    with_preprocessing: bool,

    /// Put a softmax inside: the result is probabilities.
    #[arg(long)]
    softmax: bool,

    #[command(flatten)]
    flip: FlipAverageFlag,

    /// Precision of weights and activations: f32 or f16.
    #[arg(long, value_name = "PRECISION", default_value = "f32")]
    precision: OnnxPrecision,

    /// License of the weights in the metadata, by its identifier on the Hub.
    #[arg(long, value_name = "ID", value_parser = license)]
    license: Option<String>,

    /// Write random inputs and this program's results for them, as a safetensors file that must not
    /// exist.
    #[arg(long, value_name = "FILE")]
    samples: Option<PathBuf>,

    /// Run the file in another engine and compare the results (the default).
    #[arg(long, overrides_with = "no_verify")]
    verify: bool,

    /// Do not run the file in another engine.
    #[arg(long)]
    no_verify: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    require_absent("--output", &arguments.output)?;
    if let Some(samples) = &arguments.samples {
        require_absent("--samples", samples)?;
    }
    let checkpoint = arguments.checkpoint.open(DeviceChoice::Cpu)?;
    let options = options(arguments, &checkpoint);
    let metadata = OnnxMetadata {
        classes: checkpoint.config.classes.clone(),
        weights_sha256: checkpoint.weights_sha256()?,
        license: arguments.license.clone(),
        preprocessing: Some(checkpoint.config.preprocessing.clone()),
    };
    let parameters = checkpoint.parameters();
    let model = OnnxModel::new(&checkpoint.config.model, parameters, &options, &metadata);
    let model = model.with_context(|| format!("--checkpoint {}", arguments.checkpoint.shown()))?;
    let paths = model.write(&arguments.output).context("--output")?;
    describe(&model, &paths, &options)?;
    if let Some(samples) = &arguments.samples {
        samples::write(&checkpoint, &options, samples)?;
    }
    if !arguments.no_verify {
        verify(arguments, &checkpoint, &options)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Checks before the model is read that a file can be created.
fn require_absent(flag: &str, path: &Path) -> Result<()> {
    let shown = path.display();
    if path.exists() {
        return Err(usage_error(anyhow!(
            "{flag} {shown}: expected no such file, found one; choose another name or remove it"
        )));
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if path.file_name().is_none() || !folder.is_dir() {
        return Err(usage_error(anyhow!(
            "{flag} {shown}: expected a file in an existing directory, found no directory {}",
            folder.display()
        )));
    }
    Ok(())
}

fn options(arguments: &Arguments, checkpoint: &Checkpoint) -> ExportOptions {
    let config = &checkpoint.config;
    let side = config.shorter_side();
    let preprocessing = GraphPreprocessing {
        steps: config.preprocessing.clone(),
        shorter_side: (side != usize::MAX).then_some(side),
    };
    ExportOptions {
        precision: arguments.precision,
        softmax: arguments.softmax,
        flip_average: arguments
            .flip
            .flip_average
            .unwrap_or(config.data.flip_average),
        preprocessing: arguments.with_preprocessing.then_some(preprocessing),
    }
}

/// Prints what was written.
fn describe(model: &OnnxModel, paths: &[PathBuf], options: &ExportOptions) -> Result<()> {
    let nodes: usize = model.operators().values().sum();
    let mut bytes = 0;
    for path in paths {
        bytes += path.metadata().context("--output")?.len();
    }
    let names = paths.iter().map(|path| escape::os(path.as_os_str()));
    let names: Vec<String> = names.collect();
    terminal::print(format_args!(
        "{}: opset {}, {} nodes, {}, {:.1} MB",
        names.join(", "),
        OnnxModel::OPSET,
        grouped(nodes),
        options.precision,
        bytes as f64 / 1e6
    ))?;
    Ok(())
}

#[cfg(feature = "export-verify")]
fn verify(arguments: &Arguments, checkpoint: &Checkpoint, options: &ExportOptions) -> Result<()> {
    verify::compare(&arguments.output, checkpoint, options)
}

/// Says how to compare the results, in a build without another engine.
#[cfg(not(feature = "export-verify"))]
fn verify(arguments: &Arguments, _: &Checkpoint, _: &ExportOptions) -> Result<()> {
    let output = perceiver_train::shell_quoted(&arguments.output);
    let samples = match &arguments.samples {
        Some(samples) => perceiver_train::shell_quoted(samples),
        None => "SAMPLES (see --samples)".to_string(),
    };
    tracing::info!(
        "not verified in another engine, for which this program lacks the Cargo feature `export-verify`; with \
         Python's onnxruntime: python tests/oracle/onnx_check.py {output} {samples}"
    );
    Ok(())
}
