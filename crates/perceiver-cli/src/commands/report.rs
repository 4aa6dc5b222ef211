//! `perceiver report`: regenerates `report.html` of a run.

pub(crate) mod watch;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use perceiver_data::{FolderListing, Samples, Source};
use perceiver_report::{Run, Shows, report};
use perceiver_train::{
    Checkpoint, Communicator, DeviceChoice, Recipe, RunDirectory, SingleProcess, TestResults,
    TestTimeAugmentation, shell_quoted, test_samples, write_file, write_predictions,
};

use crate::args::named_directory;
use crate::commands::evaluate;
use crate::ui::data_progress;
use crate::ui::terminal;

/// Write the report of a run: one HTML file that shows the results.
///
/// Training writes it at its end. It is self-contained and needs no network. If the test images no
/// longer exist, it is written without them, and says so; it never overwrites a report that has
/// them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  perceiver report runs/shapes-quickstart-1
  perceiver report runs/photos --output photos.html
  perceiver report runs/photos --dataset folder:moved/photos")]
pub(crate) struct Arguments {
    /// Run directory.
    #[arg(value_name = "RUN")]
    run: PathBuf,

    /// Output file [default: RUN/report.html].
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Current location of the run's data set, if it has moved since training.
    #[arg(long, value_name = "DATASET")]
    dataset: Option<Source>,

    /// Directory of downloaded data sets [default: as in training].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Device to compute on: auto, cpu, cuda, cuda:N or metal.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let directory = named_directory::run("RUN", &arguments.run)?;
    let output = arguments.output.clone();
    let output = output.unwrap_or_else(|| directory.report());
    let test_source = TestSource::In(DataLocation {
        dataset: arguments.dataset.as_ref(),
        data_dir: arguments.data_dir.as_deref(),
    });
    write(&directory, test_source, arguments.device, &output)?;
    terminal::print_path(&output)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the report at the end of training. A failure does not affect the finished run.
pub(crate) fn after_training(
    directory: &RunDirectory,
    device: DeviceChoice,
    test: Option<Samples>,
) {
    let output = directory.report();
    if output.exists() && test.is_none() {
        return; // the run had finished before
    }
    let test_source = test.map_or(TestSource::In(DataLocation::default()), TestSource::Read);
    // A panic has already printed its message; the run has its results all the same.
    let written = catch_unwind(AssertUnwindSafe(|| {
        write(directory, test_source, device, &output)
    }));
    let written = written.unwrap_or_else(|_| Err(anyhow!("internal error")));
    match written {
        Ok(()) => tracing::info!("report: {}", output.display()),
        Err(error) => tracing::warn!(
            "no report: {error:#}; once that is fixed, write it with: perceiver report {}",
            shell_quoted(directory.root())
        ),
    }
}

/// The test images of a run.
enum TestSource<'a> {
    /// Already loaded.
    Read(Samples),
    /// To be loaded from their place in training or a new one.
    In(DataLocation<'a>),
}

/// The new location of a moved data set.
#[derive(Clone, Copy, Default)]
struct DataLocation<'a> {
    dataset: Option<&'a Source>,
    data_dir: Option<&'a Path>,
}

impl DataLocation<'_> {
    /// Returns the flag that names the new location of a data set of this kind.
    fn flag(source: &Source) -> &'static str {
        match source {
            Source::Folder(_) => "give its location by --dataset folder:DIR",
            Source::Shards { .. } => "give its location by --dataset shards:DIR",
            Source::Cifar100 | Source::Cifar10 => "give its location by --data-dir DIR",
            _ => "give its location by --dataset",
        }
    }
}

/// The parts of a page that need the test images or the weights, and how they start.
const PARTS: [(&str, &str); 2] = [
    ("test images", "<section id=\"pictures\">"),
    ("attention", "<section id=\"attention\">"),
];

fn write(
    directory: &RunDirectory,
    test_source: TestSource<'_>,
    device: DeviceChoice,
    output: &Path,
) -> Result<()> {
    let mut run = Run::read(directory)?;
    let (mut test, mut checkpoint, mut missing) = (None, None, Vec::new());
    if run.results.is_some() {
        match test_images(&run, test_source) {
            Ok(images) => test = Some(images),
            Err(error) => {
                let error = crate::in_one_line(&error);
                let flag = DataLocation::flag(&run.recipe.data.dataset);
                missing.push(format!("The test images are not shown: {error}; {flag}."));
            }
        }
        match Checkpoint::open(directory.root(), &device.open()?) {
            Ok(opened) => checkpoint = Some(opened),
            Err(error) => missing.push(format!("The model's attention is not shown: {error}.")),
        }
    }
    if let (Some(test), Some(checkpoint)) = (&test, &checkpoint) {
        missing.extend(evaluate_plain(directory, &mut run, test, checkpoint)?);
    }
    if run.results.is_some() && run.predictions.is_none() {
        missing.push("The run has no saved predictions.".to_string());
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
        return Ok(()); // no such file, or not a report
    };
    let lost = PARTS
        .iter()
        .find(|(_, part)| before.contains(part) && !page.contains(part));
    let Some((what, _)) = lost else {
        return Ok(());
    };
    anyhow::bail!(
        "{}: not overwritten, as it shows the {what} and the new report would not; write the new one elsewhere by --output FILE",
        output.display()
    )
}

/// Returns the names of the test images, if they have any; warns if that is unknown.
pub(crate) fn image_names(test: &Samples) -> Option<Vec<String>> {
    test.image_names().unwrap_or_else(|error| {
        tracing::warn!("cannot read the names of the test images: {error}");
        None
    })
}

/// Loads the test split of a recipe for a model with these classes, from the earlier file listing
/// if there is one.
pub(crate) fn test_split(
    recipe: &Recipe,
    listing: Option<Arc<FolderListing>>,
    classes: &[String],
    ranks: &dyn Communicator,
) -> Result<Samples> {
    let mut options = recipe.load_options();
    options.listing = listing;
    options.watcher = data_progress::watcher();
    let data = &recipe.data;
    let test = test_samples(&data.dataset, &options, data.limit_test, classes, ranks);
    Ok(test?)
}

/// Loads the test images of a run and checks that they are the same.
fn test_images(run: &Run, test_source: TestSource<'_>) -> Result<Samples> {
    let location = match test_source {
        TestSource::Read(test) => return Ok(test),
        TestSource::In(location) => location,
    };
    let mut recipe = run.recipe.clone();
    if let Some(dataset) = location.dataset {
        recipe.data.dataset = dataset.clone();
    }
    if let Some(data_dir) = location.data_dir {
        recipe.data.data_dir = data_dir.to_path_buf();
    }
    let test = test_split(&recipe, None, &run.config.classes, &SingleProcess)?;
    let results = run.results.as_ref().context("the run is not finished")?;
    let known = |results: &&TestResults| !results.sha256.is_empty();
    if test.len() as u64 != results.images {
        anyhow::bail!(
            "{} now has {} test images, the run was evaluated on {}",
            test.name(),
            test.len(),
            results.images
        );
    }
    if Some(results)
        .filter(known)
        .is_some_and(|results| results.sha256 != test.sha256())
    {
        anyhow::bail!("{} has changed since the run was evaluated", test.name());
    }
    Ok(test)
}

/// Evaluates a run of an earlier version, which did not save predictions. Saves them if the results
/// match those of the run, and returns a note if they do not.
fn evaluate_plain(
    directory: &RunDirectory,
    run: &mut Run,
    test: &Samples,
    checkpoint: &Checkpoint,
) -> Result<Option<String>> {
    let (Some(results), None) = (&run.results, &run.predictions) else {
        return Ok(None);
    };
    tracing::info!(
        "evaluating {} images again, as the run has no saved predictions",
        test.len()
    );
    let evaluation = evaluate::with_bar(
        &*checkpoint.model,
        TestTimeAugmentation::new(run.recipe.data.test_time_flip),
        test,
        &checkpoint.config.preprocessing,
        &checkpoint.device().clone().into(),
    )?;
    let again = TestResults::new(test, &evaluation);
    let differs = again.acc.to_bits() != results.acc.to_bits();
    let note = differs.then(|| {
        format!(
            "Classes, confusions and calibration are of a new evaluation, with an accuracy of {:.2}%.",
            100.0 * again.acc
        )
    });
    if note.is_none() {
        let results = TestResults {
            sha256: again.sha256,
            balanced_acc: again.balanced_acc,
            macro_f1: again.macro_f1,
            ..results.clone()
        };
        let names = image_names(test);
        // The run may just be extended by another process, and have no results any more.
        let kept = directory.clone().locked().and_then(|directory| {
            let path = directory.predictions();
            write_predictions(&path, &evaluation.predictions, names.as_deref())?;
            results.write(directory.results())
        });
        if let Err(error) = kept {
            tracing::warn!("cannot save the predictions: {error}");
        }
        run.results = Some(results);
    }
    run.predictions = Some(evaluation.predictions);
    Ok(note)
}
