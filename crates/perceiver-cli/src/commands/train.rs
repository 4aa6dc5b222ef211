//! `perceiver train`: chooses data and recipe, trains, and evaluates once on the test split.

mod fit;
pub(crate) mod new_run;
mod plan;
pub(crate) mod resume;
mod sweep;
mod test;
mod views;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use perceiver_train::{Communicator, Facts, Surveys, require_agreement, shell_quoted};

use crate::args::recipe::RecipeFlags;
use crate::commands::{evaluate, report};
use crate::runtime::mpi_job::Job;
use crate::runtime::signals::{self, INTERRUPTED};
use fit::{fit_and_test, read};
use test::TestOutcome;
use views::{ViewFlags, Views};

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
  perceiver train --dataset folder:photos --dashboard
  perceiver train --resume runs/photos
  perceiver train --resume runs/photos --epochs 80")]
pub(crate) struct Arguments {
    #[command(flatten)]
    recipe: RecipeFlags,

    /// Run directory [default: runs/DATASET-PRESET-NUMBER, or runs/sweep-NUMBER].
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,

    /// Compare recipes: train every [[variant]] of a TOML file with each of its seeds, in --output;
    /// repeat the command to resume. See docs/recipes.md for an example.
    #[arg(long, value_name = "FILE")]
    sweep: Option<PathBuf>,

    /// Resume an interrupted run with its own recipe. Only these flags may be added: --device,
    /// --checkpoint-every, --dataset or --data-dir for data that has moved, and --epochs to train
    /// longer.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["output", "sweep", "preset", "recipe", "config", "set", "labels",
        "budget", "batch_size", "learning_rate", "precision", "recompute", "diagnose", "seed", "limit_train", "limit_test", "init_from"])]
    resume: Option<PathBuf>,

    /// With --resume: start from the previous saved state if the last one is damaged; the damaged
    /// file is kept aside.
    #[arg(long, requires = "resume")]
    from_previous: bool,

    #[command(flatten)]
    views: ViewFlags,
}

impl Arguments {
    /// Returns the arguments that must agree on all ranks in addition to the recipe, so that they
    /// use the same paths.
    fn facts(&self) -> Facts {
        let paths = [
            ("--resume", self.resume.as_ref()),
            ("--output", self.output.as_ref()),
            ("--sweep", self.sweep.as_ref()),
        ];
        let given = paths
            .into_iter()
            .filter_map(|(flag, path)| Some((flag, path?)));
        let quoted = |text: String| format!("{text:?}");
        let given =
            given.map(|(flag, path)| (flag.to_string(), quoted(path.display().to_string())));
        let mut facts: Facts = given.collect();
        facts.insert(
            "--from-previous".to_string(),
            self.from_previous.to_string(),
        );
        let epochs = self.recipe.epochs.unwrap_or(0);
        facts.insert("--epochs".to_string(), epochs.to_string());
        if let Some(dataset) = &self.recipe.dataset {
            facts.insert("--dataset".to_string(), quoted(dataset.to_string()));
        }
        facts
    }
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

/// Trains with `ranks`. Once the run exists, `resume` is the command that resumes it.
fn train(
    arguments: &Arguments,
    ranks: &Arc<dyn Communicator>,
    resume: &mut Option<String>,
) -> Result<ExitCode> {
    let since = Instant::now();
    let stop = signals::flag(&**ranks)?;
    require_agreement(&**ranks, &arguments.facts())?;
    let mut views = Views::new(&arguments.views, ranks.is_first())?;
    if let Some(file) = &arguments.sweep {
        if ranks.size() > 1 {
            bail!("--sweep: expected a single process, found {}", ranks.size());
        }
        return sweep::run(file, &arguments.recipe, arguments.output.as_deref(), &stop);
    }
    let plan = match &arguments.resume {
        Some(run) => match resume::plan(run, arguments, ranks, since)? {
            Some(plan) => plan,
            None => return Ok(ExitCode::SUCCESS),
        },
        None => new_run::plan(arguments, ranks, since)?,
    };
    let root = shell_quoted(plan.run.root());
    let command = format!("perceiver train --resume {root}");
    *resume = Some(command.clone());
    if ranks.size() > 1 {
        signals::set_interrupt_message(&command);
        tracing::info!(
            "training on {} ranks; if one is lost, the job ends; resume on any number of ranks with: mpirun ... {command}",
            ranks.size()
        );
    }
    let (directory, device) = (plan.run.clone(), plan.recipe.training.device);
    let budget = plan.recipe.training.budget;
    let surveys = Surveys::read(&directory.surveys());
    let data = read(&plan.recipe, &**ranks, surveys)?;
    let outcome = fit_and_test(plan, data, &stop, &[], &mut views);
    views.close_terminal();
    let outcome = outcome?;
    if !ranks.is_first() {
        return Ok(ExitCode::SUCCESS);
    }
    let Some(TestOutcome {
        results,
        test,
        classes,
    }) = outcome
    else {
        let starter = if ranks.size() > 1 { "mpirun ... " } else { "" };
        tracing::warn!("saved; resume with: {starter}perceiver train --resume {root}");
        return Ok(ExitCode::from(INTERRUPTED));
    };
    evaluate::print(&results, classes)?;
    if let Some(budget) = budget {
        let took = since.elapsed().as_secs_f64();
        tracing::info!("took {took:.1} s with a budget of {budget}");
    }
    report::after_training(&directory, device, test);
    tracing::info!("best weights, metrics and results are in {root}");
    tracing::info!("try: perceiver predict --checkpoint {root} IMAGE");
    Ok(ExitCode::SUCCESS)
}
