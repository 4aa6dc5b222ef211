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
}

impl Sample {
    /// The amount a second of every repetition.
    pub fn per_second(&self) -> impl Iterator<Item = f64> {
        self.seconds.iter().map(|seconds| self.amount / seconds)
    }
}

/// The most memory this process had at once, as Linux tells it.
pub fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_peak_has_seen_what_was_touched() {
        let before = peak_rss_bytes().unwrap();
        let touched = vec![1u8; 64 << 20];
        assert!(peak_rss_bytes().unwrap() >= before.max(touched.len() as u64));
    }
}
