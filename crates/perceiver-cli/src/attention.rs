//! `perceiver attention`: what the latents look at, over the picture.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use perceiver_data::Image;
use perceiver_report::{Attention, Latents, ReportError, Sheet, Show, overlay, stretched};
use perceiver_train::{DeviceChoice, write_file};

use crate::checkpoint::CheckpointFlags;
use crate::terminal;
use crate::wrong_arguments::{at_least_one, wrong};

/// Show what a model looks at in a picture.
///
/// Colours over the picture say where the latents look, violet least and yellow most, each map stretched to its own range; the
/// heads' mean. Without --latent and --mean: a sheet with a row a cross attention, of the picture, the mean over all latents, and
/// the latents that look most at single places.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  perceiver attention --checkpoint runs/photos --output attention.png picture.jpg
  perceiver attention --checkpoint runs/photos --output mean.png --mean --iteration 1 picture.jpg
  perceiver attention --checkpoint runs/photos --output logits.png --latent 7 --logits picture.jpg")]
pub(crate) struct Arguments {
    #[command(flatten)]
    checkpoint: CheckpointFlags,

    /// An image file.
    #[arg(value_name = "IMAGE")]
    image: PathBuf,

    /// The PNG file to write.
    #[arg(long, value_name = "PNG")]
    output: PathBuf,

    /// Show latent N alone, from 1.
    #[arg(long, value_name = "N", conflicts_with = "mean", value_parser = at_least_one)]
    latent: Option<usize>,

    /// Show the mean over all latents alone.
    #[arg(long)]
    mean: bool,

    /// Show cross attention I alone, from 1 [default: all, side by side].
    #[arg(long, value_name = "I", value_parser = at_least_one)]
    iteration: Option<usize>,

    /// Show what the softmax is over instead of probabilities, as figure 3 of the Perceiver paper does.
    #[arg(long)]
    logits: bool,

    /// Where to compute: auto, cpu, cuda, cuda:N or metal.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
}

/// Pixels along a side of a map that stands with few others.
const LARGE: usize = 512;

/// Pixels along a side of a map in a sheet.
const SMALL: usize = 192;

/// Single latents in a row of a sheet.
const SINGLE_LATENTS: usize = 4;

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let checkpoint = arguments.checkpoint.open(arguments.device)?;
    let picture = Image::open(&arguments.image)?;
    let attention = Attention::of(&checkpoint, &picture)?;
    let picture = checkpoint.config.preprocessing.framed(&picture)?; // what the maps lie over
    let show = if arguments.logits {
        Show::Logits
    } else {
        Show::Probabilities
    };
    let latents = match arguments.latent {
        Some(latent) => Some(Latents::One(latent)),
        None => arguments.mean.then_some(Latents::Mean),
    };
    let iterations: Vec<usize> = match arguments.iteration {
        Some(iteration) => vec![iteration],
        None => (1..=attention.iterations()).collect(),
    };
    let made = match latents {
        Some(latents) => maps(&attention, &picture, &iterations, latents, show),
        None => rows(&attention, &picture, &iterations, show),
    };
    let (sheet, says) = made.map_err(|error| match error.downcast_ref() {
        Some(ReportError::NotThere { .. }) => wrong(error),
        _ => error,
    })?;
    write_file(&arguments.output, &sheet.png()?)?;
    tell(&arguments.output, &says)?;
    Ok(ExitCode::SUCCESS)
}

fn tell(output: &Path, says: &[String]) -> Result<()> {
    terminal::print_path(output)?;
    for line in says {
        terminal::print(format_args!("  {line}"))?;
    }
    Ok(())
}

/// One map an iteration, side by side.
fn maps(
    attention: &Attention,
    picture: &Image,
    iterations: &[usize],
    latents: Latents,
    show: Show,
) -> Result<(Sheet, Vec<String>)> {
    let mut row = Vec::new();
    for &iteration in iterations {
        let map = attention.map(iteration, latents, show)?;
        row.push(overlay(picture, &map, LARGE)?);
    }
    let columns: Vec<String> = iterations.iter().map(ToString::to_string).collect();
    let says = format!("cross attention {}: {}", columns.join(", "), name(latents));
    Ok((Sheet::new(&[row]), vec![says]))
}

/// A row an iteration: the picture, the mean, and the latents that look most at single places.
fn rows(
    attention: &Attention,
    picture: &Image,
    iterations: &[usize],
    show: Show,
) -> Result<(Sheet, Vec<String>)> {
    let (mut sheet, mut says) = (Vec::new(), Vec::new());
    for &iteration in iterations {
        let sharpest = attention.sharpest(iteration, SINGLE_LATENTS)?;
        let single = sharpest.into_iter().map(Latents::One);
        let shown: Vec<Latents> = std::iter::once(Latents::Mean).chain(single).collect();
        let mut row = vec![stretched(picture, SMALL)?];
        for &latents in &shown {
            let map = attention.map(iteration, latents, show)?;
            row.push(overlay(picture, &map, SMALL)?);
        }
        sheet.push(row);
        let names: Vec<String> = shown.into_iter().map(name).collect();
        says.push(format!(
            "cross attention {iteration}: the picture, {}",
            names.join(", ")
        ));
    }
    Ok((Sheet::new(&sheet), says))
}

fn name(latents: Latents) -> String {
    match latents {
        Latents::Mean => "the mean".to_string(),
        Latents::One(latent) => format!("latent {latent}"),
    }
}
