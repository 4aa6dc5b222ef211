//! What one process of a benchmark reports.

use serde::{Deserialize, Serialize};

/// The repetitions of one process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// What a repetition gets done: pictures, or multiply-adds.
    pub amount: f64,
    /// Seconds of every timed repetition.
    pub seconds: Vec<f64>,
    /// The most memory the process had at once; None where the system does not tell.
    pub peak_rss_bytes: Option<u64>,
    /// The most memory its tensors had on a GPU; None where there is none, or the driver does not tell.
    #[serde(default)]
    pub peak_device_bytes: Option<u64>,
}

impl Sample {
    /// The amount a second of every repetition.
    pub fn per_second(&self) -> impl Iterator<Item = f64> {
        self.seconds.iter().map(|seconds| self.amount / seconds)
    }
}
