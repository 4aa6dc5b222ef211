//! A run of the program in its own directory, on images that are fast to read.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use perceiver_data::Image;
use perceiver_train::EpochMetrics;

use crate::program::{Sandbox, TINY_MODEL};

/// Returns the recipe of the tiny model with dropout, so that its masks are tested too, for several
/// epochs of many steps.
#[must_use]
pub fn several_epochs() -> String {
    let rest = "
dropout_rate = 0.2
attention_dropout = 0.1
[data]
limit_train = 100
limit_test = 20
[training]
epochs = 6
batch_size = 7
learning_rate = 0.01
plateau = { patience = 1 }
";
    format!("{TINY_MODEL}{rest}")
}

/// A run of that recipe in `run`, with its images in `photos`.
pub struct Run {
    /// The directory of both.
    pub sandbox: Sandbox,
}

impl Run {
    /// Creates a run that has not started, for the program at `program`, with additional lines of
    /// `[training]`.
    ///
    /// # Panics
    /// When the images cannot be written.
    #[must_use]
    pub fn new(program: &str, training: &str) -> Self {
        let sandbox = Sandbox::new(program);
        sandbox.write("tiny.toml", several_epochs() + training);
        for class in 0..4u8 {
            let folder = sandbox.path(format!("photos/class-{class}"));
            fs::create_dir_all(&folder).unwrap();
            for index in 0..40u8 {
                let pixel = |at: u8| 60 * class + (at.wrapping_mul(index) % 60);
                let image = Image::new(8, 8, (0..192).map(pixel).collect()).unwrap();
                image
                    .write_png(folder.join(format!("{index}.png")))
                    .unwrap();
            }
        }
        Self { sandbox }
    }

    /// Returns the path of a file of the run.
    #[must_use]
    pub fn path(&self, file: &str) -> PathBuf {
        self.sandbox.path("run").join(file)
    }

    /// Returns the command that starts the run.
    #[must_use]
    pub fn start(&self) -> Command {
        let start =
            "train --preset quickstart --dataset folder:photos --config tiny.toml --output run";
        self.sandbox.command(start)
    }

    /// Returns the command that resumes it, with additional arguments.
    #[must_use]
    pub fn resume(&self, more: &str) -> Command {
        self.sandbox.command(&format!("train --resume run {more}"))
    }

    /// Reads the best weights as bytes.
    ///
    /// # Panics
    /// When there are none.
    #[must_use]
    pub fn weights(&self) -> Vec<u8> {
        fs::read(self.path("model.safetensors")).unwrap()
    }

    /// Reads the test results.
    ///
    /// # Panics
    /// When the run has not ended.
    #[must_use]
    pub fn results(&self) -> String {
        fs::read_to_string(self.path("results.json")).unwrap()
    }

    /// Reads the metrics of every epoch, without timings.
    ///
    /// # Panics
    /// When there are none.
    #[must_use]
    pub fn metrics(&self) -> Vec<EpochMetrics> {
        let text = fs::read_to_string(self.path("metrics.jsonl")).unwrap();
        text.lines()
            .map(|line| EpochMetrics {
                seconds: 0.0,
                images_per_second: 0.0,
                ..serde_json::from_str(line).unwrap()
            })
            .collect()
    }

    /// Returns the number of epochs whose metrics are written.
    #[must_use]
    pub fn epochs_done(&self) -> usize {
        fs::read_to_string(self.path("metrics.jsonl")).map_or(0, |text| text.lines().count())
    }

    /// Returns the number of steps in the saved state; `None` without a state.
    ///
    /// # Panics
    /// When there is a state that cannot be read.
    #[must_use]
    pub fn steps_saved(&self) -> Option<u64> {
        let bytes = fs::read(self.path("training/state.safetensors")).ok()?;
        let (length, rest) = bytes.split_first_chunk().unwrap();
        let header = &rest[..u64::from_le_bytes(*length) as usize];
        let header: serde_json::Value = serde_json::from_slice(header).unwrap();
        let progress = header["__metadata__"]["progress"].as_str().unwrap();
        let progress: serde_json::Value = serde_json::from_str(progress).unwrap();
        progress["steps"].as_u64()
    }

    /// Asserts that two runs ended with the same metrics, results and weights, bit for bit.
    ///
    /// # Panics
    /// When they have not.
    pub fn assert_same_end(&self, expected: &Self) {
        assert_eq!(self.metrics(), expected.metrics());
        assert!(self.weights() == expected.weights(), "the weights differ");
        assert_eq!(self.results(), expected.results());
    }
}

/// Runs a program that must succeed, and returns its output.
///
/// # Panics
/// When it does not.
pub fn finished(mut program: Command) -> Output {
    let output = program.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    output
}
