//! The training state: everything beside recipe and data that the next step depends on.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use perceiver_model::{Parameters, require_finite};
use serde::{Deserialize, Serialize};

use crate::callbacks::EpochMetrics;
use crate::diagnostics::model_stats::GradientSums;
use crate::diagnostics::step_history::StepHistory;
use crate::diagnostics::watchdog::Memory;
use crate::diagnostics::watchdog::warning::Warning;
use crate::error::{Result, TrainError};
use crate::eval::metrics::MetricSums;
use crate::lr_schedule::reduce_on_plateau::Plateau;
use crate::optim::config::OptimizerRecipe;
use crate::recipe::Recipe;
use crate::recipe::resume_check;
use crate::run::checksummed_file::{self, Checksum, Content};
use crate::run::directory::RunDirectory;
use crate::run::json_file;
use crate::trainer::early_stopping::EarlyStopping;
use crate::trainer::freezing;
use crate::trainer::timer::TimeSpent;

/// The metadata key of the progress in `state.safetensors`.
const KEY: &str = "progress";

/// The format version of `state.safetensors`. The first format had no version, checksum or recipe.
const FORMAT: u32 = 2;

/// The description of a state in errors.
const EXPECTED: &str = "the training state of a run";

/// The training state without its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub(crate) format: Format,
    /// The recipe fields that may not change on resume, as TOML: those that the tensors depend on.
    pub(crate) recipe: String,
    /// The hash of the training data, so that a run cannot resume with other data by mistake.
    pub(crate) train_sha256: String,
    /// The number of optimizer steps; also the key of dropout.
    pub(crate) steps: u64,
    /// The number of steps before the optimizer began, where an earlier stage trained the head
    /// alone.
    #[serde(default, skip_serializing_if = "json_file::is_default")]
    pub(crate) stage_start: u64,
    pub(crate) learning_rate: f32,
    pub(crate) plateau: Plateau,
    pub(crate) early_stopping: EarlyStopping,
    /// The metrics of all epochs done.
    pub(crate) history: Vec<EpochMetrics>,
    /// The current epoch.
    pub(crate) epoch: EpochProgress,
    /// Whether early stopping has ended the run.
    pub(crate) stopped: bool,
    /// The optimizer, loss and schedule of a program's own, by kind.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) parts: BTreeMap<String, String>,
    /// Whether training was complete at this save.
    #[serde(default)]
    pub(crate) done: bool,
    #[serde(default)]
    pub(crate) time: TimeSpent,
    /// The training curves within the epochs.
    #[serde(default)]
    pub(crate) step_history: StepHistory,
    /// The state of the watchdog.
    #[serde(default)]
    pub(crate) watchdog: Memory,
}

/// The progress of the current epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct EpochProgress {
    pub(crate) batches_done: usize,
    pub(crate) sums: MetricSums,
    pub(crate) seconds: f64,
    /// The sums of gradient norms, if the recipe asks for model statistics.
    #[serde(default)]
    pub(crate) gradients: GradientSums,
    /// The warnings during the epoch.
    #[serde(default)]
    pub(crate) warnings: Vec<Warning>,
}

/// The format version [`FORMAT`]; no other can be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub(crate) struct Format;

impl From<Format> for u32 {
    fn from(_: Format) -> Self {
        FORMAT
    }
}

impl TryFrom<u32> for Format {
    type Error = String;

    fn try_from(format: u32) -> std::result::Result<Self, String> {
        if format == FORMAT {
            return Ok(Self);
        }
        Err(format!(
            "format {format}, but this program reads format {FORMAT}"
        ))
    }
}

/// The progress of a saved run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainingState {
    /// The number of epochs done.
    pub epochs: usize,
    /// The number of steps done in the next epoch.
    pub steps: usize,
    /// Whether training is complete.
    pub is_done: bool,
}

impl TrainingState {
    /// Reads the progress of the state at `path`, the last or the previous one of `run`, and checks
    /// that a run with `recipe` can resume from it. The data is not checked.
    ///
    /// # Errors
    /// When the state is missing or damaged, or its recipe differs.
    pub fn read(run: &RunDirectory, path: &Path, recipe: &Recipe) -> Result<Self> {
        let Saved { progress, .. } = read(run, path, recipe, &Device::Cpu)?;
        Ok(Self {
            epochs: progress.history.len(),
            steps: progress.epoch.batches_done,
            is_done: match recipe.training.budget {
                Some(_) => progress.stopped || progress.done,
                None => progress.stopped || progress.history.len() >= recipe.training.epochs,
            },
        })
    }
}

/// The tensors of the training state.
#[derive(Debug, Default)]
pub(crate) struct StateTensors {
    pub(crate) parameters: HashMap<String, Tensor>,
    pub(crate) best: HashMap<String, Tensor>,
    pub(crate) optimizer: HashMap<String, Tensor>,
    /// The EMA of weights.
    pub(crate) ema: HashMap<String, Tensor>,
}

impl StateTensors {
    /// Returns the kinds of tensors, with the prefix of their names in the file.
    fn kinds(&mut self) -> [(&'static str, &mut HashMap<String, Tensor>); 4] {
        [
            ("parameters.", &mut self.parameters),
            ("best.", &mut self.best),
            ("optimizer.", &mut self.optimizer),
            ("averages.", &mut self.ema),
        ]
    }

    /// Checks that the parameters, the best weights and the EMA are finite. Moments may be
    /// infinite: squares of large gradients overflow, and the resulting steps are small.
    fn require_finite(&self) -> std::result::Result<(), String> {
        for (prefix, kind) in [("best.", &self.best), ("averages.", &self.ema)] {
            for (name, tensor) in kind {
                let finite = require_finite(&format!("{prefix}{name}"), tensor);
                finite.map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    fn on(mut self, device: &Device) -> Result<Self> {
        for (_, kind) in self.kinds() {
            for tensor in kind.values_mut() {
                *tensor = tensor.to_device(device)?;
            }
        }
        Ok(self)
    }
}

/// The result of [`read`].
pub(crate) struct Saved {
    pub(crate) progress: Progress,
    pub(crate) parameters: Parameters,
    /// All tensors except the parameters.
    pub(crate) tensors: StateTensors,
}

/// Writes progress and tensors as one file, atomically replacing the old one.
pub(crate) fn write(path: &Path, progress: &Progress, mut tensors: StateTensors) -> Result<()> {
    let numbers = serde_json::to_string(progress).map_err(|error| TrainError::Io {
        action: "write",
        path: path.to_path_buf(),
        source: error.into(),
    })?;
    let mut named = Vec::new();
    for (prefix, kind) in tensors.kinds() {
        let kind = kind.drain();
        named.extend(kind.map(|(name, tensor)| (format!("{prefix}{name}"), tensor)));
    }
    checksummed_file::write(path, HashMap::from([(KEY.to_string(), numbers)]), named)
}

/// Reads the output of [`write`] at `path`, to resume the run in `run` with `recipe`.
///
/// # Errors
/// When the file is missing, damaged or another program's, or its recipe differs.
pub(crate) fn read(
    run: &RunDirectory,
    path: &Path,
    recipe: &Recipe,
    device: &Device,
) -> Result<Saved> {
    let damaged = |finding: String| TrainError::Damaged {
        path: path.to_path_buf(),
        expected: EXPECTED.to_string(),
        finding,
    };
    let content = checksummed_file::read(path, EXPECTED, Checksum::Required)?;
    let progress = progress_in(&content).map_err(damaged)?;
    resume_check::require_same(&progress.recipe, path, recipe, &run.recipe())?;
    let mut tensors = by_kind(content.tensors).map_err(damaged)?;
    let parameters = std::mem::take(&mut tensors.parameters);
    let parameters = Parameters::from_loaded_tensors(&recipe.model, parameters, device)
        .map_err(|error| damaged(error.to_string()))?;
    let is_own = progress.parts.contains_key("optimizer");
    let trained = freezing::trained(&parameters, recipe, progress.history.len());
    let optimizer = (!is_own).then_some(&recipe.training.optimizer);
    require_complete([&parameters, &trained], &tensors, optimizer).map_err(damaged)?;
    if progress.stage_start > progress.steps {
        let finding = format!(
            "stage_start {} after step {}",
            progress.stage_start, progress.steps
        );
        return Err(damaged(finding));
    }
    tensors.require_finite().map_err(damaged)?;
    let tensors = tensors.on(device)?;
    Ok(Saved {
        progress,
        parameters,
        tensors,
    })
}

fn progress_in(content: &Content) -> std::result::Result<Progress, String> {
    let numbers = content
        .metadata
        .get(KEY)
        .ok_or("no progress in its metadata")?;
    serde_json::from_str(numbers).map_err(|error| error.to_string())
}

/// Groups tensors by the prefix of their names.
fn by_kind(named: HashMap<String, Tensor>) -> std::result::Result<StateTensors, String> {
    let mut tensors = StateTensors::default();
    for (name, tensor) in named {
        if tensor.dtype() != DType::F32 {
            return Err(format!(
                "{name} of type {:?} instead of F32",
                tensor.dtype()
            ));
        }
        let mut kinds = tensors.kinds().into_iter();
        let kind = kinds.find_map(|(prefix, kind)| Some((name.strip_prefix(prefix)?, kind)));
        let (name, kind) = kind.ok_or_else(|| format!("unknown tensor {name}"))?;
        kind.insert(name.to_string(), tensor);
    }
    Ok(tensors)
}

/// Checks that every kind of tensor that is present has one for each weight, of its shape: best
/// weights and EMA, once there are any, and every kind of moment for those that are `trained` and that
/// the `optimizer` has it for. One of a program's own, none here, may have any tensors.
fn require_complete(
    [parameters, trained]: [&Parameters; 2],
    tensors: &StateTensors,
    optimizer: Option<&OptimizerRecipe>,
) -> std::result::Result<(), String> {
    let moments = tensors
        .optimizer
        .keys()
        .filter_map(|name| name.split_once('.'));
    let moments: BTreeSet<&str> = moments.map(|(kind, _)| kind).collect();
    let shapes = |parameters: &Parameters| -> Vec<(String, Vec<usize>)> {
        let of = |(name, variable): (&str, &Var)| (name.to_string(), variable.dims().to_vec());
        parameters.iter().map(of).collect()
    };
    let constants = parameters.constants().iter();
    let constants = constants.map(|(name, tensor)| (name.clone(), tensor.dims().to_vec()));
    let weights: Vec<_> = shapes(parameters).into_iter().chain(constants).collect();
    let mut groups = Vec::new();
    if let Some(optimizer) = optimizer {
        let trained = shapes(trained);
        let of_kind = |kind: &&str| {
            let kept = trained
                .iter()
                .filter(|(name, shape)| optimizer.keeps_moment(kind, name, shape));
            let named = kept.map(|(name, shape)| (format!("{kind}.{name}"), shape.clone()));
            named.collect::<Vec<_>>()
        };
        let expected = moments.iter().flat_map(of_kind).collect();
        groups.push((&tensors.optimizer, "optimizer.", expected));
    }
    let averaged = shapes(parameters);
    for (kind, prefix, shapes) in [
        (&tensors.best, "best.", weights),
        (&tensors.ema, "averages.", averaged),
    ] {
        if !kind.is_empty() {
            groups.push((kind, prefix, shapes));
        }
    }
    for (kind, prefix, shapes) in groups {
        for (name, shape) in &shapes {
            let found = kind.get(name).map(Tensor::dims);
            if found != Some(shape) {
                let found = found.map_or("none".to_string(), |shape| format!("{shape:?}"));
                return Err(format!(
                    "{prefix}{name} of shape {found} instead of {shape:?}"
                ));
            }
        }
        if kind.len() != shapes.len() {
            return Err(format!(
                "{} tensors {prefix}* instead of {}",
                kind.len(),
                shapes.len()
            ));
        }
    }
    Ok(())
}
