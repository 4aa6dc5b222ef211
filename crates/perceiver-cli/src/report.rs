//! `perceiver report`: a run's `report.html`, which training ends with, made again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use perceiver_data::{FolderListing, Pictures, Source};
use perceiver_report::{Run, Shows, report};
use perceiver_train::{
    Alone, Checkpoint, DeviceChoice, Ranks, Recipe, RunDirectory, TestResults, Views, shell_quoted,
    test_pictures, write_file, write_predictions,
};

use crate::evaluate;
use crate::named_directory;
use crate::reading_bars;
use crate::terminal;

/// Make a run's report: one HTML file that shows what was learned.
///
/// Training ends with it. It needs no network and can be handed on alone. Where the test images are not there any more, it is
/// made without them, and says so; a report that has them is not overwritten by one without.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  perceiver report runs/shapes-quickstart-1
  perceiver report runs/photos --output photos.html
  perceiver report runs/photos --dataset folder:moved/photos")]
pub(crate) struct Arguments {
    /// Directory of a run.
    #[arg(value_name = "RUN")]
    run: PathBuf,

    /// Where to write it [default: RUN/report.html].
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Where the run's data set is now, if not where it was in training.
    #[arg(long, value_name = "DATASET")]
    dataset: Option<Source>,

    /// Where fetched data sets lie [default: as in training].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Where to compute: auto, cpu, cuda, cuda:N or metal.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let directory = named_directory::run("RUN", &arguments.run)?;
    let output = arguments.output.clone();
    let output = output.unwrap_or_else(|| directory.report());
    let judged_by = JudgedBy::In(Place {
        dataset: arguments.dataset.as_ref(),
        data_dir: arguments.data_dir.as_deref(),
    });
    write(&directory, judged_by, arguments.device, &output)?;
    terminal::print_path(&output)?;
    Ok(ExitCode::SUCCESS)
}

/// What training ends with. A report that cannot be written takes nothing from a run that has been judged.
pub(crate) fn at_the_end_of(
    directory: &RunDirectory,
    device: DeviceChoice,
    test: Option<Pictures>,
) {
    let output = directory.report();
    if output.exists() && test.is_none() {
        return; // the run had ended before
    }
    let judged_by = test.map_or(JudgedBy::In(Place::default()), JudgedBy::Read);
    // A fault of the report's own has said what it is; the run has its results all the same.
    let written = catch_unwind(AssertUnwindSafe(|| {
        write(directory, judged_by, device, &output)
    }));
    let written = written.unwrap_or_else(|_| Err(anyhow!("a fault of this program")));
    match written {
        Ok(()) => tracing::info!("what it learned, to look at: {}", output.display()),
        Err(error) => tracing::warn!(
            "no report: {error:#}; once that is put right, make it with: perceiver report {}",
            shell_quoted(directory.root())
        ),
    }
}

/// The pictures that a run was judged by.
enum JudgedBy<'a> {
    /// At hand.
    Read(Pictures),
    /// Where training found them, or in another place.
    In(Place<'a>),
}

/// Where a run's data set is, where it has been moved.
#[derive(Clone, Copy, Default)]
struct Place<'a> {
    dataset: Option<&'a Source>,
    data_dir: Option<&'a Path>,
}

impl Place<'_> {
    /// The flag that says where a data set like this one is.
    fn flag(source: &Source) -> &'static str {
        match source {
            Source::Folder(_) => "--dataset folder:DIR says where it is now",
            Source::Shards { .. } => "--dataset shards:DIR says where it is now",
            Source::Cifar100 | Source::Cifar10 => "--data-dir DIR says where it is now",
            _ => "--dataset says where it is now",
        }
    }
}

/// What only the test images and the weights can show: parts of the page, which begin so.
const PARTS: [(&str, &str); 2] = [
    ("test images", "<section id=\"pictures\">"),
    ("attention", "<section id=\"attention\">"),
];

fn write(
    directory: &RunDirectory,
    judged_by: JudgedBy<'_>,
    device: DeviceChoice,
    output: &Path,
) -> Result<()> {
    let mut run = Run::read(directory)?;
    let (mut test, mut checkpoint, mut missing) = (None, None, Vec::new());
    if run.results.is_some() {
        match pictures(&run, judged_by) {
            Ok(pictures) => test = Some(pictures),
            Err(error) => {
                let error = crate::in_one_line(&error);
                let flag = Place::flag(&run.recipe.data.dataset);
                missing.push(format!("The test images are not shown: {error}; {flag}."));
            }
        }
        match Checkpoint::open(directory.root(), &device.open()?) {
            Ok(opened) => checkpoint = Some(opened),
            Err(error) => missing.push(format!("The model's attention is not shown: {error}.")),
        }
    }
    if let (Some(test), Some(checkpoint)) = (&test, &checkpoint) {
        missing.extend(judge_by_picture(directory, &mut run, test, checkpoint)?);
    }
    if run.results.is_some() && run.predictions.is_none() {
        missing.push("The run kept no predictions.".to_string());
    }
    let note = missing.join(" ");
    if !note.is_empty() {
        tracing::warn!("{note}");
    }
    let shows = Shows {
        test: test.as_ref(),
        checkpoint: checkpoint.as_ref(),
        note: Some(note.as_str()).filter(|note| !note.is_empty()),
    };
    let page = report(&run, &shows)?;
    if run.results.is_some() {
        require_no_loss(output, &page)?;
    }
    Ok(write_file(output, page.as_bytes())?)
}

/// Refuses to replace a report by one that shows less of the same run.
fn require_no_loss(output: &Path, page: &str) -> Result<()> {
    let Ok(before) = std::fs::read_to_string(output) else {
        return Ok(()); // none there, or no report
    };
    let lost = PARTS
        .iter()
        .find(|(_, part)| before.contains(part) && !page.contains(part));
    let Some((what, _)) = lost else {
        return Ok(());
    };
    anyhow::bail!(
        "{}: kept, as it shows the {what} and the new report would not; --output FILE writes that one beside it",
        output.display()
    )
}

/// What the test images are called, where they have names; says so where that cannot be told.
pub(crate) fn image_names(test: &Pictures) -> Option<Vec<String>> {
    test.image_names().unwrap_or_else(|error| {
        tracing::warn!("the names of the test images are not known: {error}");
        None
    })
}

/// The test split of a recipe, for a model of these classes; of the files that were listed before, where they were.
pub(crate) fn test_split(
    recipe: &Recipe,
    listing: Option<Arc<FolderListing>>,
    classes: &[String],
    ranks: &dyn Ranks,
) -> Result<Pictures> {
    let mut options = recipe.load_options();
    options.listing = listing;
    options.watcher = reading_bars::watcher();
    let data = &recipe.data;
    let test = test_pictures(&data.dataset, &options, data.limit_test, classes, ranks);
    Ok(test?)
}

/// The pictures that a run was judged by, and no others.
fn pictures(run: &Run, judged_by: JudgedBy<'_>) -> Result<Pictures> {
    let place = match judged_by {
        JudgedBy::Read(test) => return Ok(test),
        JudgedBy::In(place) => place,
    };
    let mut recipe = run.recipe.clone();
    if let Some(dataset) = place.dataset {
        recipe.data.dataset = dataset.clone();
    }
    if let Some(data_dir) = place.data_dir {
        recipe.data.data_dir = data_dir.to_path_buf();
    }
    let test = test_split(&recipe, None, &run.config.classes, &Alone)?;
    let results = run.results.as_ref().context("the run has not ended")?;
    let known = |results: &&TestResults| !results.sha256.is_empty();
    if test.len() as u64 != results.images {
        anyhow::bail!(
            "{} has {} of them now, the run was judged by {}",
            test.name(),
            test.len(),
            results.images
        );
    }
    if Some(results)
        .filter(known)
        .is_some_and(|results| results.sha256 != test.sha256())
    {
        anyhow::bail!("{} has changed since the run was judged", test.name());
    }
    Ok(test)
}

/// Judges the pictures of a run that did not keep what was said of each, as earlier versions did not, and keeps it where the verdict
/// is the one that the run ended with; says so where it is not.
fn judge_by_picture(
    directory: &RunDirectory,
    run: &mut Run,
    test: &Pictures,
    checkpoint: &Checkpoint,
) -> Result<Option<String>> {
    let (Some(results), None) = (&run.results, &run.predictions) else {
        return Ok(None);
    };
    tracing::info!(
        "judging {} pictures again, as the run did not keep what was said of each",
        test.len()
    );
    let evaluation = evaluate::with_bar(
        &checkpoint.model,
        Views::new(run.recipe.data.flip_average),
        test,
        &checkpoint.config.preprocessing,
        &checkpoint.device().clone().into(),
    )?;
    let again = TestResults::new(test, &evaluation.sums);
    let differs = again.acc.to_bits() != results.acc.to_bits();
    let note = differs.then(|| {
        format!(
            "Classes, confusions and calibration are of pictures judged again, which came to {:.2}%.",
            100.0 * again.acc
        )
    });
    if note.is_none() {
        let results = TestResults {
            sha256: again.sha256,
            ..results.clone()
        };
        let names = image_names(test);
        // A run that another process is writing may be extended just now, and have no results any more.
        let kept = directory.clone().locked().and_then(|directory| {
            let path = directory.predictions();
            write_predictions(&path, &evaluation.predictions, names.as_deref())?;
            results.write(&directory.results())
        });
        if let Err(error) = kept {
            tracing::warn!("what was said of each picture is not kept: {error}");
        }
        run.results = Some(results);
    }
    run.predictions = Some(evaluation.predictions);
    Ok(note)
}
