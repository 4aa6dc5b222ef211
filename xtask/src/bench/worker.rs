//! The measurements that one process of a benchmark reports.

use serde::{Deserialize, Serialize};

/// The timed repetitions of one process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The work per repetition, in images or multiply-adds.
    pub amount: f64,
    /// The duration of every timed repetition, in seconds.
    pub seconds: Vec<f64>,
    /// The peak memory of the process; `None` if the system does not report it.
    pub peak_rss_bytes: Option<u64>,
    /// The peak memory of its tensors on a GPU; `None` without a GPU, or if the driver does not
    /// report it.
    #[serde(default)]
    pub peak_device_bytes: Option<u64>,
}

impl Sample {
    /// Returns the work per second of every repetition.
    pub fn per_second(&self) -> impl Iterator<Item = f64> {
        self.seconds.iter().map(|seconds| self.amount / seconds)
    }
}
