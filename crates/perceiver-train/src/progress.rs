//! Where a run stands: everything, beside the recipe and the data, that its next step depends on.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use crate::atomic_file;
use crate::checkpoint::unwritable;
use crate::clock::TimeSpent;
use crate::early_stopping::EarlyStopping;
use crate::error::{Result, TrainError};
use crate::metrics::MetricSums;
use crate::observer::EpochMetrics;
use crate::plateau::Plateau;

/// The key of the numbers in the metadata of `state.safetensors`.
const KEY: &str = "progress";

/// The numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
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
    #[serde(default)]
    pub(crate) time: TimeSpent,
}

/// How far the epoch under way has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct EpochProgress {
    pub(crate) batches_done: usize,
    pub(crate) sums: MetricSums,
    pub(crate) seconds: f64,
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
}

/// Writes numbers and tensors as one file, replacing the old one at once or not at all.
pub(crate) fn write(path: &Path, progress: &Progress, mut tensors: StateTensors) -> Result<()> {
    let mut named = Vec::new();
    for (prefix, kind) in tensors.kinds() {
        for (name, tensor) in kind.drain() {
            named.push((format!("{prefix}{name}"), tensor.to_device(&Device::Cpu)?));
        }
    }
    let numbers = serde_json::to_string(progress).map_err(|error| TrainError::Io {
        action: "write",
        path: path.to_path_buf(),
        source: error.into(),
    })?;
    let metadata = HashMap::from([(KEY.to_string(), numbers)]);
    let bytes = safetensors::serialize(named, Some(metadata)).map_err(|e| unwritable(path, &e))?;
    atomic_file::write(path, &bytes)
}

/// Reads what [`write`] wrote.
///
/// # Errors
/// When the file is not there, damaged, or another program's.
pub(crate) fn read(path: &Path, device: &Device) -> Result<(Progress, StateTensors)> {
    let bytes = atomic_file::read(path)?;
    let damaged = |finding: &dyn std::fmt::Display| TrainError::Damaged {
        path: path.to_path_buf(),
        expected: "the state of a run",
        finding: finding.to_string(),
    };
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| damaged(&error))?;
    let numbers = header.metadata().as_ref().and_then(|all| all.get(KEY));
    let numbers = numbers.ok_or_else(|| damaged(&"no progress in its metadata"))?;
    let progress = serde_json::from_str(numbers).map_err(|error| damaged(&error))?;

    let mut tensors = StateTensors::default();
    let named = candle_core::safetensors::load_buffer(&bytes, device).map_err(|e| damaged(&e))?;
    for (name, tensor) in named {
        let kind = tensors
            .kinds()
            .into_iter()
            .find_map(|(prefix, kind)| Some((name.strip_prefix(prefix)?.to_string(), kind)));
        let (name, kind) = kind.ok_or_else(|| damaged(&format!("unknown tensor {name}")))?;
        kind.insert(name, tensor);
    }
    Ok((progress, tensors))
}
