//! `perceiver train`: choose data and recipe, say so, train, and judge once by the test split.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Result, anyhow, bail};
use candle_core::Device;
use perceiver_data::{Pictures, Source, Split, Streamed};
use perceiver_model::Summary;
use perceiver_report::{counted, grouped, with_unit};
use perceiver_train::{
    Checkpoint, CheckpointConfig, DeviceChoice, Environment, EpochMetrics, Event, EventFile,
    MetricsCsv, MetricsFile, Observer, Observers, Outcome, Prediction, Preset, Ranks, Recipe,
    RunDirectory, Standing, Surveys, TestAhead, TestResults, TrainError, Trainer, TrainingData,
    Views, Workplace, require_agreement, require_memory, shell_quoted, write_predictions,
};

use crate::class_check;
use crate::evaluate;
use crate::forecast::Told;
use crate::init_from;
use crate::interrupt::{self, INTERRUPTED};
use crate::job::{self, Job};
use crate::kernels;
use crate::named_directory;
use crate::progress::TrainingProgress;
use crate::reading_bars;
use crate::recipe_flags::{Named, RecipeFlags};
use crate::report;
use crate::sweep;
use crate::way_out;
use crate::what_is_seen::what_is_seen;

/// Train a model.
///
/// Without flags: CIFAR-100 if it is in `data/`, else the embedded shapes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  perceiver train
  perceiver train --dataset cifar100 --preset cifar100-cpu --epochs 5
  perceiver train --dataset folder:photos --output runs/photos
  perceiver train --set training.optimizer.name=lamb \\
      --set model.num_iterations=3
  perceiver train --recipe runs/photos --seed 1 --output runs/again
  perceiver train --preset cifar100-cpu --sweep sweep.toml -o runs/comparison
  perceiver train --dataset folder:photos --init-from runs/cifar -o runs/tuned
  perceiver train --resume runs/photos
  perceiver train --resume runs/photos --epochs 80")]
pub(crate) struct Arguments {
    #[command(flatten)]
    recipe: RecipeFlags,

    /// Directory of the run [default: runs/DATASET-PRESET-NUMBER, or runs/sweep-NUMBER].
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,

    /// Compare recipes: train every [[variant]] of a TOML file with each of its seeds, in --output;
    /// the same command again goes on. docs/recipes.md has an example.
    #[arg(long, value_name = "FILE", conflicts_with = "seed")]
    sweep: Option<PathBuf>,

    /// Go on with an interrupted run; its recipe is in it. Only --device, --checkpoint-every, --dataset or --data-dir for
    /// data that has moved, and --epochs to make it longer may be added.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["output", "sweep", "preset", "recipe", "config", "set", "labels",
        "budget", "batch_size", "learning_rate", "precision", "recompute", "diagnose", "seed", "limit_train", "limit_test", "init_from"])]
    resume: Option<PathBuf>,

    /// With --resume: go on from the state saved before the last, where that is damaged; it is kept aside.
    #[arg(long, requires = "resume")]
    from_previous: bool,
}

impl Arguments {
    /// What has to be the same on all ranks, beside the recipe, for them to come to the same places.
    fn facts(&self) -> toml::Table {
        let paths = [
            ("--resume", self.resume.as_ref()),
            ("--output", self.output.as_ref()),
            ("--sweep", self.sweep.as_ref()),
        ];
        let given = paths
            .into_iter()
            .filter_map(|(flag, path)| Some((flag, path?)));
        let given = given.map(|(flag, path)| (flag.to_string(), path.display().to_string().into()));
        let mut facts: toml::Table = given.collect();
        facts.insert("--from-previous".to_string(), self.from_previous.into());
        let epochs = i64::try_from(self.recipe.epochs.unwrap_or(0)).unwrap_or(i64::MAX);
        facts.insert("--epochs".to_string(), epochs.into());
        if let Some(dataset) = &self.recipe.dataset {
            facts.insert("--dataset".to_string(), dataset.to_string().into());
        }
        facts
    }
}

/// Where a run begins.
#[derive(Clone, Copy)]
pub(crate) enum Beginning {
    Anew,
    State,
    Previous,
}

/// What to run, and where.
pub(crate) struct Plan {
    pub(crate) recipe: Recipe,
    pub(crate) run: RunDirectory,
    pub(crate) place: Workplace,
    pub(crate) from: Beginning,
    /// The epochs to have in place of those that the run was to have.
    pub(crate) epochs: Option<usize>,
    /// What a budget is counted from.
    pub(crate) since: Instant,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let job = Job::join()?;
    let (ranks, mut resume) = (Arc::clone(&job.ranks), None);
    let span = if ranks.is_first() {
        tracing::Span::none()
    } else {
        tracing::warn_span!("rank", number = ranks.rank())
    };
    let outcome = span.in_scope(|| train(arguments, &ranks, &mut resume));
    job.end(outcome, resume.as_deref())
}

/// Trains with `ranks`; once there is a run, `resume` is the command that goes on with it.
fn train(
    arguments: &Arguments,
    ranks: &Arc<dyn Ranks>,
    resume: &mut Option<String>,
) -> Result<ExitCode> {
    let since = Instant::now();
    let stop = interrupt::flag(&**ranks)?;
    require_agreement(&**ranks, &arguments.facts())?;
    if let Some(file) = &arguments.sweep {
        if ranks.size() > 1 {
            bail!("--sweep: expected a single process, found {}", ranks.size());
        }
        return sweep::run(file, &arguments.recipe, arguments.output.as_deref(), &stop);
    }
    let plan = match &arguments.resume {
        Some(run) => match resumed(run, arguments, ranks, since)? {
            Some(plan) => plan,
            None => return Ok(ExitCode::SUCCESS),
        },
        None => chosen(arguments, ranks, since)?,
    };
    let root = shell_quoted(plan.run.root());
    let command = format!("perceiver train --resume {root}");
    *resume = Some(command.clone());
    if ranks.size() > 1 {
        interrupt::set_last_words(&command);
        tracing::info!(
            "{} ranks train together; if one is lost, the job ends, and any number of ranks goes on with: mpirun ... {command}",
            ranks.size()
        );
    }
    let (directory, device) = (plan.run.clone(), plan.recipe.training.device);
    let budget = plan.recipe.training.budget;
    let surveys = Surveys::read(&directory.surveys());
    let data = read(&plan.recipe, &**ranks, surveys)?;
    let judged = carry_out(plan, data, &stop, &[])?;
    if !ranks.is_first() {
        return Ok(ExitCode::SUCCESS);
    }
    let Some(Judged {
        results,
        test,
        classes,
    }) = judged
    else {
        let starter = if ranks.size() > 1 { "mpirun ... " } else { "" };
        tracing::warn!("saved; go on with: {starter}perceiver train --resume {root}");
        return Ok(ExitCode::from(INTERRUPTED));
    };
    evaluate::print(&results, classes)?;
    if let Some(budget) = budget {
        let took = since.elapsed().as_secs_f64();
        tracing::info!("took {took:.1} s with a budget of {budget}");
    }
    report::at_the_end_of(&directory, device, test);
    tracing::info!("best weights, metrics and results are in {root}");
    tracing::info!("try: perceiver predict --checkpoint {root} IMAGE");
    Ok(ExitCode::SUCCESS)
}

/// Reads the training split of a recipe, on every rank.
pub(crate) fn read(recipe: &Recipe, ranks: &dyn Ranks, surveys: Surveys) -> Result<TrainingData> {
    tracing::info!("reading {}", recipe.data.dataset);
    let watcher = reading_bars::watcher();
    let data = TrainingData::load_shared(recipe, ranks, &watcher, surveys);
    Ok(data?)
}

/// The verdict of a run.
pub(crate) struct Judged {
    pub(crate) results: TestResults,
    /// The pictures it was judged by; none where the verdict had been reached before.
    test: Option<Pictures>,
    /// How many the model tells apart.
    classes: usize,
}

impl Judged {
    /// What the test pictures are called, where they have names. A run that has been judged is not lost for want of them.
    fn image_names(&self) -> Option<Vec<String>> {
        self.test.as_ref().and_then(report::image_names)
    }
}

/// Trains to the end, and judges once by the test split; no verdict where the run was interrupted, and saved, nor on any but the first of
/// several ranks. Runs by the recipes in `after` will follow, which a forecast is of, too.
pub(crate) fn carry_out(
    plan: Plan,
    data: TrainingData,
    stop: &AtomicBool,
    after: &[&Recipe],
) -> Result<Option<Judged>> {
    let mut trainer = prepare(plan, data)?;
    let is_first = trainer.place().ranks.is_first();
    if is_first && !trainer.is_done() {
        let here = Environment::here(trainer.device());
        if let Err(error) = here.write(&trainer.run().environment()) {
            tracing::warn!("where the run is trained is not noted: {error}");
        }
    }
    let forecast = Told::before(&trainer, after)?;
    let mut observers: Observers = Vec::new();
    if is_first {
        observers.push(Box::new(MetricsFile::new(trainer.run().metrics())));
        observers.push(Box::new(MetricsCsv::new(trainer.run().metrics_csv())));
        observers.push(Box::new(EventFile::new(trainer.run().event_file())));
        let classes = trainer.recipe().model.num_classes();
        if trainer.is_done() {
            tracing::info!("all {} are done", counted(trainer.history().len(), "epoch"));
        } else {
            observers.push(Box::new(TrainingProgress::new(classes)));
        }
    }
    let outcome = trainer.fit(&mut observers, stop);
    match outcome.map_err(|error| way_out::shown(error, trainer.run(), trainer.recipe()))? {
        Outcome::Finished => {
            if let Some(forecast) = forecast {
                forecast.after(&trainer);
            }
            verdict(&trainer)
        }
        Outcome::Interrupted => Ok(None),
    }
}

/// The run to go on with; none where there is nothing left to do, which is said.
fn resumed(
    run: &Path,
    arguments: &Arguments,
    ranks: &Arc<dyn Ranks>,
    since: Instant,
) -> Result<Option<Plan>> {
    let flags = &arguments.recipe;
    let run = named_directory::run("--resume", run)?;
    let mut recipe = recipe_in(&run)?;
    let run = if ranks.is_first() {
        locked(&run, &recipe)?
    } else {
        run
    };
    let (from, state) = if arguments.from_previous {
        (Beginning::Previous, run.previous_state())
    } else {
        (Beginning::State, run.state())
    };
    // Before the data is read, which may take long, and with another recipe would be other data.
    let standing = if state.exists() || arguments.from_previous {
        let standing = Standing::read(&run, &state, &recipe);
        Some(standing.map_err(|error| way_out::shown(error, &run, &recipe))?)
    } else {
        None
    };
    if let (Some(standing), Some(found)) = (standing, flags.epochs)
        && found <= standing.epochs
    {
        let done = standing.epochs;
        let error = TrainError::TooFewEpochs { done, found };
        return Err(way_out::shown(error, &run, &recipe));
    }
    let asked_for_nothing = !arguments.from_previous
        && flags.epochs.is_none()
        && flags.dataset.is_none()
        && flags.data_dir.is_none();
    if asked_for_nothing && is_finished(&run, &recipe, standing, &**ranks)? {
        return Ok(None);
    }
    if let Some(dataset) = &flags.dataset {
        recipe.data.dataset.clone_from(dataset);
    }
    if let Some(data_dir) = &flags.data_dir {
        recipe.data.data_dir.clone_from(data_dir);
    }
    if let Some(device) = flags.device {
        recipe.training.device = device;
    }
    if flags.checkpoint_every.is_some() {
        recipe.training.checkpoint_every = flags.checkpoint_every;
    }
    tracing::info!("resuming {}", run.root().display());
    let place = job::workplace(recipe.training.device, ranks)?;
    Ok(Some(Plan {
        recipe,
        run,
        place,
        from,
        epochs: flags.epochs,
        since,
    }))
}

/// Whether a run has ended and has all that it ends with; what it came to is said again. The first rank looks, for all.
fn is_finished(
    run: &RunDirectory,
    recipe: &Recipe,
    standing: Option<Standing>,
    ranks: &dyn Ranks,
) -> Result<bool> {
    let standing = standing.filter(|_| ranks.is_first());
    let ended = standing.and_then(|standing| Ended::read(run, recipe, standing));
    let mut finished = [f64::from(u8::from(ended.is_some()))];
    ranks.all_reduce_f64(&mut finished)?;
    if let Some(Ended { results, history }) = ended {
        let shown = |error| way_out::shown(error, run, recipe);
        run.remove_leftovers().map_err(shown)?;
        // What is made of those: the table may be missing, the curves torn.
        let table =
            MetricsCsv::new(run.metrics_csv()).notice(&Event::Started { history: &history });
        let curves = EventFile::new(run.event_file());
        let written = table.and_then(|()| curves.write(&history, Some(&results)));
        written.map_err(shown)?;
        let root = shell_quoted(run.root());
        tracing::info!(
            "{root} is already finished, after {}; --epochs N with more of them extends it",
            counted(history.len(), "epoch")
        );
        evaluate::print(&results, recipe.model.num_classes())?;
        report::at_the_end_of(run, recipe.training.device, None); // where there is none
    }
    Ok(finished != [0.0])
}

/// What a run came to that has ended.
struct Ended {
    results: TestResults,
    history: Vec<EpochMetrics>,
}

impl Ended {
    /// None where a file is missing or damaged, or says other than the recipe, that going on would make again.
    fn read(run: &RunDirectory, recipe: &Recipe, standing: Standing) -> Option<Self> {
        let results = TestResults::read(&run.results()).ok()?;
        let history = MetricsFile::read(&run.metrics()).ok()?;
        let checkpoint = Checkpoint::open(run.root(), &Device::Cpu).ok()?;
        let is_whole = standing.is_done
            && history.len() == standing.epochs
            && checkpoint.config.data.dataset.as_ref() == Some(&recipe.data.dataset);
        is_whole.then_some(Self { results, history })
    }
}

/// The run, which nobody else can go on with from here on.
fn locked(run: &RunDirectory, recipe: &Recipe) -> Result<RunDirectory> {
    if let Some(writer) = run.writer_elsewhere() {
        tracing::warn!(
            "{} was being written by {writer}; waiting 20 s to see whether it still is",
            run.root().display()
        );
    }
    let locked = run.clone().locked();
    locked.map_err(|error| way_out::shown(error, run, recipe))
}

/// The recipe of a run that was begun.
pub(crate) fn recipe_in(run: &RunDirectory) -> Result<Recipe> {
    Recipe::read(&run.recipe()).map_err(|error| {
        anyhow!("{error}; mend it by hand: the run's state names the first field that differs from what it was")
    })
}

/// A new run, by flags and by what is there.
fn chosen(arguments: &Arguments, ranks: &Arc<dyn Ranks>, since: Instant) -> Result<Plan> {
    let flags = &arguments.recipe;
    let layers = flags.layers()?;
    let named = layers.named()?;
    let place = job::workplace(named.device, ranks)?;
    let is_whole = named.recipe.is_some();
    let (dataset, preset) = choose(flags.preset, named, &place.device);
    let mut recipe = init_from::recipe(&layers, preset)?;
    recipe.data.dataset = dataset;
    recipe.data.dataset.check(&recipe.load_options())?;
    if place.device.is_cpu() {
        require_memory(&recipe, 0)?; // the model's part, before the data are read, which may take long
    }
    let under = if is_whole { "recipe" } else { preset.name() };
    let run = new_directory(arguments.output.as_deref(), &recipe, under, &**ranks)?;
    Ok(Plan {
        recipe,
        run,
        place,
        from: Beginning::Anew,
        epochs: None,
        since,
    })
}

/// The directory of a new run, which the first rank makes for all, and which no other start can have.
fn new_directory(
    output: Option<&Path>,
    recipe: &Recipe,
    under: &str,
    ranks: &dyn Ranks,
) -> Result<RunDirectory> {
    let mut chosen = Vec::new();
    let run = if ranks.is_first() {
        let run = match output {
            Some(root) => RunDirectory::create(root),
            None => RunDirectory::create_under(Path::new("runs"), &name(recipe, under)),
        };
        let run = run.map_err(not_started)?;
        chosen = run.root().to_string_lossy().into_owned().into_bytes();
        ranks.broadcast(0, &mut chosen)?;
        run
    } else {
        ranks.broadcast(0, &mut chosen)?;
        RunDirectory::unused(String::from_utf8(chosen)?)?
    };
    ranks.barrier()?; // nobody begins before everyone has seen that it is unused
    Ok(run)
}

/// What a run by a recipe over the preset `under` is called where nobody says.
fn name(recipe: &Recipe, under: &str) -> String {
    format!("{}-{under}", recipe.data.dataset.short_name())
}

/// The data set and the preset: those named, else the best of what is there; under a whole recipe the preset that is the defaults. Says
/// what and why.
pub(crate) fn choose(preset: Option<Preset>, named: Named, device: &Device) -> (Source, Preset) {
    let choice = Choice::of(preset, named, device);
    choice.say();
    (choice.dataset, choice.preset)
}

/// What to train on and by, and why.
pub(crate) struct Choice {
    pub(crate) dataset: Source,
    pub(crate) preset: Preset,
    why: &'static str,
    reason: &'static str,
    recipe: Option<PathBuf>,
    /// Where CIFAR-100 was looked for in vain.
    without: Option<PathBuf>,
}

impl Choice {
    /// The choice of [`choose`], which says nothing of it.
    pub(crate) fn of(preset: Option<Preset>, named: Named, device: &Device) -> Self {
        let mut without = None;
        let (dataset, why) = match named.dataset {
            Some(dataset) => (dataset, "as named"),
            None if preset == Some(Preset::Quickstart) => (Source::Shapes, "quickstart's"),
            None if Source::Cifar100.is_present(&named.data_dir) => (Source::Cifar100, "found"),
            None => {
                without = Some(named.data_dir);
                (Source::Shapes, "embedded")
            }
        };
        let (preset, reason) = match (preset, &dataset) {
            _ if named.recipe.is_some() => (Preset::Keras, "which is the defaults"),
            (Some(preset), _) => (preset, "as named"),
            (None, Source::Shapes) => (Preset::Quickstart, "for shapes"),
            (None, _) if device.is_cpu() => (Preset::Cifar100Cpu, "for a CPU"),
            (None, _) => (Preset::Cifar100, "for a GPU"),
        };
        Self {
            dataset,
            preset,
            why,
            reason,
            recipe: named.recipe,
            without,
        }
    }

    fn say(&self) {
        let Self {
            dataset,
            preset,
            why,
            reason,
            ..
        } = self;
        if let Some(data_dir) = &self.without {
            tracing::warn!(
                "no CIFAR-100 in {}: learning the embedded shapes instead; `cargo xtask fetch-data` brings CIFAR-100",
                data_dir.display()
            );
        }
        if let Some(recipe) = &self.recipe {
            tracing::info!("data set {dataset} ({why}), recipe {}", recipe.display());
        } else {
            tracing::info!(
                "data set {dataset} ({why}), preset {preset} ({reason}): {}",
                preset.description()
            );
        }
    }
}

fn prepare(plan: Plan, data: TrainingData) -> Result<Trainer> {
    let Plan {
        recipe,
        run,
        place,
        from,
        epochs,
        since,
    } = plan;
    let test = test_ahead(&recipe, &data)?;
    tracing::info!(
        "{}; {} classes; normalization mean {:.1?}",
        what_is_seen(&recipe, &data),
        data.train.classes().len(),
        data.preprocessing.normalization.mean
    );
    if recipe.data.limit_train.is_none() {
        class_check::say(&data);
    }
    if let Pictures::Streamed(train) = &data.train {
        say_memory(train, recipe.data.shuffle_buffer);
    }
    let trainer = begin(from, epochs, (recipe, data, run, place))?.timed(since, test);
    let recipe = trainer.recipe();
    kernels::say(trainer.device(), recipe.training.precision, &recipe.model);
    let summary = Summary::new(&recipe.model)?;
    let steps = trainer.steps_per_epoch();
    let steps = counted(steps, "step");
    let length = match recipe.training.budget {
        None => format!(
            "at most {} of {steps}",
            counted(recipe.training.epochs, "epoch")
        ),
        Some(budget) => format!("{budget} for epochs of {steps}"),
    };
    tracing::info!(
        "{} parameters, {} multiply-adds an image; {length} on {}; run {}",
        grouped(summary.parameters()),
        with_unit(summary.multiply_adds()),
        DeviceChoice::from(trainer.device()),
        trainer.run().root().display()
    );
    Ok(trainer)
}

/// What pictures in shards take of memory, of all ranks together.
fn say_memory(train: &Streamed, shuffle_buffer: usize) {
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let (mean, largest) = train.picture_bytes();
    let buffer = shuffle_buffer as u64;
    tracing::info!(
        "reading pictures from {} shards as they are needed: {buffer} at a time, {:.1} MB on average, {:.1} MB at most; places and labels \
         take {:.1} MB",
        train.shards(),
        megabytes(buffer * mean),
        megabytes(buffer * largest),
        megabytes(train.index_bytes() as u64)
    );
}

/// What the test will be, told from how long the training split took to read. Where a split is not counted before it is read,
/// the test is taken for a quarter of the training split.
fn test_ahead(recipe: &Recipe, data: &TrainingData) -> Result<TestAhead> {
    let mut options = recipe.load_options();
    options.listing.clone_from(&data.listing);
    let count = |split| recipe.data.dataset.count(split, &options);
    let (images, share) = match (count(Split::Test)?, count(Split::Train)?) {
        (Some(test), Some(train)) => (test, test as f64 / train as f64),
        _ => (data.len() / 4, 0.25),
    };
    let images = images.min(recipe.data.limit_test.unwrap_or(usize::MAX));
    let passes = if recipe.data.flip_average { 2 } else { 1 };
    Ok(TestAhead {
        images: passes * images,
        loading: data.loading.mul_f64(share),
    })
}

/// The verdict of the test split, which is reached once, by all ranks together, and kept by the first until the run goes on; none on the
/// others.
fn verdict(trainer: &Trainer) -> Result<Option<Judged>> {
    let (run, ranks) = (trainer.run(), &trainer.place().ranks);
    let shown = |error| way_out::shown(error, run, trainer.recipe());
    let before = TestResults::read(&run.results()).ok();
    let before = before.filter(|_| ranks.is_first()); // others may not see it yet
    let mut reached = [f64::from(u8::from(before.is_some()))];
    ranks.all_reduce_f64(&mut reached)?;
    if !ranks.is_first() {
        if reached == [0.0] {
            test(trainer)?; // its part
        }
        return Ok(None);
    }
    let judged = if let Some(results) = before {
        Judged {
            results,
            test: None,
            classes: trainer.recipe().model.num_classes(),
        }
    } else {
        let (judged, predictions) = test(trainer)?;
        // The predictions first: where there are results, there is all that belongs to them.
        let names = judged.image_names();
        let written = write_predictions(&run.predictions(), &predictions, names.as_deref());
        let written = written.and_then(|()| judged.results.write(&run.results()));
        written.map_err(shown)?;
        judged
    };
    let curves = EventFile::new(run.event_file());
    let written = curves.write(trainer.history(), Some(&judged.results));
    written.map_err(shown)?;
    Ok(Some(judged))
}

fn begin(
    from: Beginning,
    epochs: Option<usize>,
    (recipe, mut data, run, place): (Recipe, TrainingData, RunDirectory, Workplace),
) -> Result<Trainer> {
    let (asked, directory) = (recipe.clone(), run.clone());
    let shown = |error| way_out::shown(error, &directory, &asked);
    if !matches!(from, Beginning::Anew) {
        let before = CheckpointConfig::read(&run.config()).ok();
        data.init_overlap = before.and_then(|config| config.data.init_overlap);
    }
    let mut trainer = match from {
        Beginning::Anew => {
            let started = match init_from::checkpoint(&recipe)? {
                None => Trainer::start(recipe, data, run, place),
                Some(checkpoint) => {
                    if place.ranks.is_first() {
                        init_from::compare_images(&checkpoint, &recipe, &mut data);
                    }
                    let started = Trainer::start_from(&checkpoint, recipe, data, run, place);
                    started.inspect(init_from::say).map(|(trainer, _)| trainer)
                }
            };
            return started.map_err(not_started);
        }
        Beginning::State => Trainer::resume(recipe, data, run, place).map_err(shown)?,
        Beginning::Previous => {
            let resumed = Trainer::resume_from_previous(recipe, data, run, place);
            let (trainer, aside) = resumed.map_err(shown)?;
            if let Some(aside) = aside {
                tracing::warn!(
                    "going on from the previous state; the last one is kept as {}",
                    aside.display()
                );
            }
            trainer
        }
    };
    if let Some(epochs) = epochs {
        trainer.extend(epochs).map_err(shown)?;
    }
    Ok(trainer)
}

/// A run that could not be put on the disk.
fn not_started(error: TrainError) -> anyhow::Error {
    match &error {
        TrainError::RunExists { .. } => anyhow::Error::new(error)
            .context("choose another --output, or go on with the run by --resume"),
        TrainError::InUse { .. } => anyhow!("{error}; choose another --output"),
        TrainError::Io { source, .. } => {
            let remedy = way_out::remedy(source.kind());
            anyhow!("{error}; {remedy}, or choose another --output")
        }
        _ => error.into(),
    }
}

/// Reads the test split, for the one time it is read.
fn test(trainer: &Trainer) -> Result<(Judged, Vec<Prediction>)> {
    let recipe = trainer.recipe();
    let ranks = &*trainer.place().ranks;
    let data = trainer.data();
    let test = report::test_split(recipe, data.listing.clone(), data.train.classes(), ranks)?;
    if ranks.size() > 1 {
        let facts = [("the test split".to_string(), test.sha256().into())];
        require_agreement(ranks, &facts.into_iter().collect())?;
    }
    let evaluation = evaluate::with_bar(
        trainer.model(),
        Views::new(recipe.data.flip_average),
        &test,
        trainer.preprocessing(),
        trainer.place(),
    )?;
    let judged = Judged {
        results: TestResults::new(&test, &evaluation.sums),
        test: Some(test),
        classes: recipe.model.num_classes(),
    };
    Ok((judged, evaluation.predictions))
}
