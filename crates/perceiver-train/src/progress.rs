//! Where a run stands: everything, beside the recipe and the data, that its next step depends on.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use perceiver_model::{Parameters, require_finite};
use serde::{Deserialize, Serialize};

use crate::checked_file::{self, Checksum, Content};
use crate::clock::TimeSpent;
use crate::diagnosis::GradientSums;
use crate::early_stopping::EarlyStopping;
use crate::error::{Result, TrainError};
use crate::metrics::MetricSums;
use crate::observer::EpochMetrics;
use crate::plateau::Plateau;
use crate::recipe::Recipe;
use crate::run_directory::RunDirectory;
use crate::settled;
use crate::watchdog::{Memory, Warning};

/// The key of the numbers in the metadata of `state.safetensors`.
const KEY: &str = "progress";

/// The layout of `state.safetensors`. The first had neither this number nor a checksum nor the recipe.
const FORMAT: u32 = 2;

/// What a state is, in errors.
const EXPECTED: &str = "the state of a run";

/// The numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub(crate) format: Format,
    /// The settled part of the recipe, as TOML: what the tensors below came from.
    pub(crate) recipe: String,
    /// The hash of the training data, so that nobody goes on with other data unawares.
    pub(crate) train_sha256: String,
    /// Steps the optimizer has taken; also what dropout is keyed by.
    pub(crate) steps: u64,
    pub(crate) learning_rate: f32,
    pub(crate) plateau: Plateau,
    pub(crate) early_stopping: EarlyStopping,
    /// All epochs done.
    pub(crate) history: Vec<EpochMetrics>,
    /// The epoch under way.
    pub(crate) epoch: EpochProgress,
    /// Whether early stopping has ended the run.
    pub(crate) stopped: bool,
    /// Whether nothing was left to do when this was saved.
    #[serde(default)]
    pub(crate) done: bool,
    #[serde(default)]
    pub(crate) time: TimeSpent,
    /// What the watchdog remembers.
    #[serde(default)]
    pub(crate) watchdog: Memory,
}

/// How far the epoch under way has come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct EpochProgress {
    pub(crate) batches_done: usize,
    pub(crate) sums: MetricSums,
    pub(crate) seconds: f64,
    /// For a diagnosis, where the recipe asks for one.
    #[serde(default)]
    pub(crate) gradients: GradientSums,
    /// What the run was warned of in it.
    #[serde(default)]
    pub(crate) warnings: Vec<Warning>,
}

/// [`FORMAT`]; no other can be read.
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
            "format {format}, while this program reads format {FORMAT}"
        ))
    }
}

/// How far a saved state has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Epochs done.
    pub epochs: usize,
    /// Steps done in the epoch after those.
    pub steps: usize,
    /// Whether nothing is left to train.
    pub is_done: bool,
}

impl Standing {
    /// That of the state at `path`, the last or the previous one of `run`, when a run by `recipe` can go on from it. Whether
    /// it is on the same data remains to be seen.
    ///
    /// # Errors
    /// When the state is missing, damaged, or of another recipe.
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

/// The tensors.
#[derive(Debug, Default)]
pub(crate) struct StateTensors {
    pub(crate) parameters: HashMap<String, Tensor>,
    pub(crate) best: HashMap<String, Tensor>,
    pub(crate) optimizer: HashMap<String, Tensor>,
    /// Weights averaged over the steps.
    pub(crate) averages: HashMap<String, Tensor>,
}

impl StateTensors {
    /// The kinds, with the prefix each has in the file.
    fn kinds(&mut self) -> [(&'static str, &mut HashMap<String, Tensor>); 4] {
        [
            ("parameters.", &mut self.parameters),
            ("best.", &mut self.best),
            ("optimizer.", &mut self.optimizer),
            ("averages.", &mut self.averages),
        ]
    }

    /// The weights beside the parameters are finite, as these are. Moments may be infinite: squares of large gradients are, and the steps
    /// that come of them are small.
    fn require_finite(&self) -> std::result::Result<(), String> {
        for (prefix, kind) in [("best.", &self.best), ("averages.", &self.averages)] {
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

/// What [`read`] finds.
pub(crate) struct Saved {
    pub(crate) progress: Progress,
    pub(crate) parameters: Parameters,
    /// All but the parameters.
    pub(crate) tensors: StateTensors,
}

/// Writes numbers and tensors as one file, replacing the old one at once or not at all.
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
    checked_file::write(path, HashMap::from([(KEY.to_string(), numbers)]), named)
}

/// Reads what [`write`] wrote to `path`, for a run in `run` that goes on by `recipe`.
///
/// # Errors
/// When the file is not there, damaged, another program's, or of another recipe.
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
    let content = checked_file::read(path, EXPECTED, Checksum::Required)?;
    let progress = progress_in(&content).map_err(damaged)?;
    settled::require_same(&progress.recipe, path, recipe, &run.recipe())?;
    let mut tensors = by_kind(content.tensors).map_err(damaged)?;
    let parameters = std::mem::take(&mut tensors.parameters);
    let parameters = Parameters::from_loaded_tensors(&recipe.model, parameters, device)
        .map_err(|error| damaged(error.to_string()))?;
    require_complete(&parameters, &tensors).map_err(damaged)?;
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

/// Tensors by the prefix of their names.
fn by_kind(named: HashMap<String, Tensor>) -> std::result::Result<StateTensors, String> {
    let mut tensors = StateTensors::default();
    for (name, tensor) in named {
        if tensor.dtype() != DType::F32 {
            return Err(format!(
                "{name} in {:?} in the place of F32",
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

/// Whatever is kept beside the parameters is kept for each of them, in its shape: the best and the averaged weights, once
/// there are any, and every kind of moment.
fn require_complete(
    parameters: &Parameters,
    tensors: &StateTensors,
) -> std::result::Result<(), String> {
    let moments = tensors
        .optimizer
        .keys()
        .filter_map(|name| name.split_once('.'));
    let moments: BTreeSet<&str> = moments.map(|(kind, _)| kind).collect();
    let moments = moments.iter().map(|kind| format!("{kind}."));
    let optimizer = (&tensors.optimizer, "optimizer.", moments.collect());
    let mut groups: Vec<(&HashMap<String, Tensor>, &str, Vec<String>)> = vec![optimizer];
    for (kind, prefix) in [(&tensors.best, "best."), (&tensors.averages, "averages.")] {
        if !kind.is_empty() {
            groups.push((kind, prefix, vec![String::new()]));
        }
    }
    for (kind, prefix, moments) in groups {
        let mut expected = 0;
        for moment in moments {
            for (name, parameter) in parameters.iter() {
                let name = format!("{moment}{name}");
                let found = kind.get(&name).map(Tensor::dims);
                if found != Some(parameter.dims()) {
                    let found = found.map_or("none".to_string(), |shape| format!("{shape:?}"));
                    let shape = parameter.dims();
                    return Err(format!(
                        "{prefix}{name} of shape {found} instead of {shape:?}"
                    ));
                }
                expected += 1;
            }
        }
        if kind.len() != expected {
            return Err(format!(
                "{} tensors {prefix}* instead of {expected}",
                kind.len()
            ));
        }
    }
    Ok(())
}
