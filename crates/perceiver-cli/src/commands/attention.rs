//! `perceiver attention`: attention maps over images.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use perceiver_data::Image;
use perceiver_report::{
    Attention, Latents, ReportError, Sheet, SheetFormat, SheetRow, Show, Tile, overlay, stretched,
};
use perceiver_train::{Checkpoint, DeviceChoice, TestTimeAugmentation, write_file};

use crate::args::checkpoint::CheckpointFlags;
use crate::args::errors::{at_least_one, usage_error};
use crate::ui::escape;
use crate::ui::terminal;

/// Show what a model attends to in images.
///
/// Colors over an image show the attention of the latents, averaged over the heads: violet is the
/// minimum of each map, yellow its maximum. Above each image are the predicted class and its
/// probability. Without --latent and --mean, there is one row per cross-attention: the image, the
/// mean over all latents, and the latents with the sharpest attention.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  perceiver attention --checkpoint runs/photos -o attention.png picture.jpg
  perceiver attention --checkpoint runs/photos -o two.jpg cat.jpg dog.jpg
  perceiver attention --checkpoint runs/photos -o mean.png --mean cat.jpg
  perceiver attention --checkpoint runs/photos -o logits.png --logits cat.jpg")]
pub(crate) struct Arguments {
    #[command(flatten)]
    checkpoint: CheckpointFlags,

    /// Image files.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,

    /// Output file, in the format of its extension: .png, .jpg, .jpeg, .webp or .bmp.
    #[arg(long, short, value_name = "FILE", value_parser = output)]
    output: Output,

    /// Show only latent N, counted from 1.
    #[arg(long, value_name = "N", conflicts_with = "mean", value_parser = at_least_one)]
    latent: Option<usize>,

    /// Show only the mean over all latents.
    #[arg(long)]
    mean: bool,

    /// Show only cross-attention I, counted from 1 [default: all].
    #[arg(long, value_name = "I", value_parser = at_least_one)]
    iteration: Option<usize>,

    /// Show attention logits (before softmax) instead of attention weights, as figure 3 of the
    /// Perceiver paper does.
    #[arg(long)]
    logits: bool,

    /// Device to compute on: auto, cpu, cuda, cuda:N or metal.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
}

/// An output file and its image format.
#[derive(Clone, Debug)]
struct Output {
    path: PathBuf,
    format: SheetFormat,
}

fn output(text: &str) -> Result<Output, String> {
    let path = PathBuf::from(text);
    let format = SheetFormat::of(&path);
    let format = format.ok_or("expected a file name ending in .png, .jpg, .jpeg, .webp or .bmp")?;
    Ok(Output { path, format })
}

/// The side length in pixels of a map among few.
const LARGE: usize = 512;

/// The side length in pixels of a map in a sheet.
const SMALL: usize = 192;

/// The number of single latents in a row of a sheet.
const SINGLE_LATENTS: usize = 4;

/// The maps to show.
struct ShowOptions {
    show: Show,
    /// The only latents to show, if given.
    latents: Option<Latents>,
    iteration: Option<usize>,
}

/// The rows of the sheet, and their description as text.
#[derive(Default)]
struct Shown {
    rows: Vec<SheetRow>,
    lines: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let checkpoint = arguments.checkpoint.open(arguments.device)?;
    let options = ShowOptions {
        show: if arguments.logits {
            Show::Logits
        } else {
            Show::Probabilities
        },
        latents: match arguments.latent {
            Some(latent) => Some(Latents::One(latent)),
            None => arguments.mean.then_some(Latents::Mean),
        },
        iteration: arguments.iteration,
    };
    let mut shown = Shown::default();
    for path in &arguments.images {
        let image = Image::open(path)?;
        let title = title(&checkpoint, path, &image)?;
        shown.lines.push(title.clone());
        shown.rows.push(SheetRow {
            title,
            ..SheetRow::default()
        });
        let attention = Attention::of(&checkpoint, &image)?;
        let image = checkpoint.config.preprocessing.framed(&image)?; // what the maps overlay
        let added = shown.add(&attention, &image, &options);
        added.map_err(|error| match error.downcast_ref() {
            Some(ReportError::NotThere { .. }) => usage_error(error),
            _ => error,
        })?;
    }
    let Output { path, format } = &arguments.output;
    write_file(path, &Sheet::new(&shown.rows).encoded(*format)?)?;
    terminal::print_path(path)?;
    for line in shown.lines {
        terminal::print(format_args!("  {}", escape::line(&line)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Formats the predicted class and the file name of an image.
fn title(checkpoint: &Checkpoint, path: &Path, image: &Image) -> Result<String> {
    let config = &checkpoint.config;
    let views = TestTimeAugmentation::new(config.data.flip_average);
    let probabilities = checkpoint.classify_by(views, std::slice::from_ref(image))?;
    let classes = config.classes.iter().zip(probabilities.iter().flatten());
    let best = classes.reduce(|best, next| if next.1 > best.1 { next } else { best });
    let name = path.file_name().unwrap_or(path.as_os_str());
    let (class, probability) = best.map_or(("no class", 0.0), |best| (best.0.as_str(), *best.1));
    Ok(format!(
        "{class} {:.1}%, {}",
        100.0 * probability,
        name.to_string_lossy()
    ))
}

impl Shown {
    /// Adds the requested maps of an image.
    fn add(&mut self, attention: &Attention, image: &Image, options: &ShowOptions) -> Result<()> {
        let iterations: Vec<usize> = match options.iteration {
            Some(iteration) => vec![iteration],
            None => (1..=attention.iterations()).collect(),
        };
        match options.latents {
            Some(latents) => self.add_maps(attention, image, &iterations, (latents, options.show)),
            None => iterations
                .into_iter()
                .try_for_each(|iteration| self.add_row(attention, image, iteration, options.show)),
        }
    }

    /// Adds one map per iteration, side by side.
    fn add_maps(
        &mut self,
        attention: &Attention,
        image: &Image,
        iterations: &[usize],
        (latents, show): (Latents, Show),
    ) -> Result<()> {
        let mut row = SheetRow::default();
        for &iteration in iterations {
            let map = attention.map(iteration, latents, show)?;
            row.tiles.push(Tile {
                image: overlay(image, &map, LARGE)?,
                caption: format!("cross attention {iteration}: {}", name(latents)),
            });
        }
        self.rows.push(row);
        let columns: Vec<String> = iterations.iter().map(ToString::to_string).collect();
        self.lines.push(format!(
            "cross attention {}: {}",
            columns.join(", "),
            name(latents)
        ));
        Ok(())
    }

    /// Adds the image, the mean, and the latents with the sharpest attention in an iteration.
    fn add_row(
        &mut self,
        attention: &Attention,
        image: &Image,
        iteration: usize,
        show: Show,
    ) -> Result<()> {
        let sharpest = attention.sharpest(iteration, SINGLE_LATENTS)?;
        let single = sharpest.into_iter().map(Latents::One);
        let latents: Vec<Latents> = std::iter::once(Latents::Mean).chain(single).collect();
        let title = format!("cross attention {iteration}");
        let mut row = SheetRow {
            title: title.clone(),
            tiles: vec![Tile {
                image: stretched(image, SMALL)?,
                caption: "the image".to_string(),
            }],
        };
        for &latents in &latents {
            let map = attention.map(iteration, latents, show)?;
            row.tiles.push(Tile {
                image: overlay(image, &map, SMALL)?,
                caption: name(latents),
            });
        }
        self.rows.push(row);
        let names: Vec<String> = latents.into_iter().map(name).collect();
        self.lines
            .push(format!("{title}: the image, {}", names.join(", ")));
        Ok(())
    }
}

fn name(latents: Latents) -> String {
    match latents {
        Latents::Mean => "the mean".to_string(),
        Latents::One(latent) => format!("latent {latent}"),
    }
}
