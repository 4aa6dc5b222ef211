//! `cargo xtask measure`: all figures of a device in docs/results.md and docs/performance.md, by
//! one command that can be interrupted and resumed.
//!
//! Operations are compared with those of the CPU, training and inference are timed, and presets are
//! trained and tested, each as an ordinary run of `perceiver train` in `OUTPUT/PRESET-seedN`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;
use perceiver_cli::terminal;
use perceiver_train::{DeviceChoice, EpochMetrics, MetricsFile, Preset, RunDirectory, TestResults};

use crate::bench::{Bench, Subject, program};
use crate::cargo::cargo;
use crate::error::{Result, XtaskError};
use crate::progress::Progress;

/// The individual parts of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// The operations on the device, compared with those on the CPU in f32.
    Parity,
    /// The benchmarks.
    Speed,
    /// Training of the presets.
    Learning,
}

/// The options of a measurement.
#[derive(Clone, Debug)]
pub struct Measure {
    /// The parts to run; all if empty.
    pub only: Vec<Part>,
    /// The device, precision, batch sizes and peers.
    pub bench: Bench,
    /// The presets to train.
    pub presets: Vec<Preset>,
    /// The number of seeds, from 0 on.
    pub seeds: u64,
    /// The directory of CIFAR-100.
    pub data_dir: PathBuf,
    /// The directory of the runs and results.
    pub output: PathBuf,
    /// Additional flags for `perceiver train`.
    pub flags: Vec<String>,
}

impl Measure {
    /// Measures what is missing, and writes `bench.json` and `results.md`.
    ///
    /// # Errors
    /// When something cannot be built or started, or fails.
    pub fn run(&self, progress: &dyn Progress) -> Result<()> {
        let output = &self.output;
        std::fs::create_dir_all(output).map_err(XtaskError::io("create", output))?;
        if self.includes(Part::Parity) {
            progress.message("parity: cargo test --package perceiver-ops --test devices");
            run("cargo", &mut parity(self.bench.device))?;
        }
        if self.includes(Part::Speed) {
            let (report, outcome) = self.bench.run(progress);
            terminal::print(report.table())?;
            report.write_json(&output.join("bench.json"))?;
            outcome?;
        }
        if self.includes(Part::Learning) {
            self.learn(progress)?;
        }
        Ok(())
    }

    fn includes(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    fn learn(&self, progress: &dyn Progress) -> Result<()> {
        progress.message("learning: building the program");
        let program = program::build(program::features(self.bench.device))?;
        for (preset, seed) in self.runs() {
            let root = self.root(preset, seed);
            if let Some(mut command) = self.training(&program, preset, seed) {
                progress.message(&format!("learning: {}", root.display()));
                run("perceiver", &mut command)?;
            }
            let table = self.table()?;
            let path = self.output.join("results.md");
            std::fs::write(&path, &table).map_err(XtaskError::io("write", &path))?;
        }
        terminal::print(self.table()?)?;
        Ok(())
    }

    /// Returns the runs, with seeds as the outer loop, so that an interrupted measurement has
    /// covered all presets.
    fn runs(&self) -> impl Iterator<Item = (Preset, u64)> {
        let presets = self.presets.clone();
        (0..self.seeds).flat_map(move |seed| presets.clone().into_iter().map(move |p| (p, seed)))
    }

    fn root(&self, preset: Preset, seed: u64) -> PathBuf {
        self.output.join(format!("{preset}-seed{seed}"))
    }

    /// Returns the command that starts or resumes a run; `None` if it has test results.
    fn training(&self, program: &Path, preset: Preset, seed: u64) -> Option<Command> {
        let root = self.root(preset, seed);
        let mut command = Command::new(program);
        command.arg("train");
        match RunDirectory::open(&root) {
            Ok(run) if run.results().exists() => return None,
            Ok(run) if run.state().exists() => {
                command.arg("--resume").arg(&root);
            }
            _ => {
                command
                    .args(["--dataset=cifar100", "--data-dir"])
                    .arg(&self.data_dir)
                    .arg(format!("--preset={preset}"))
                    .arg(format!("--seed={seed}"))
                    .arg(format!("--precision={}", self.bench.precision()))
                    .args(&self.flags)
                    .arg("--output")
                    .arg(&root);
            }
        }
        command.arg(format!("--device={}", self.bench.device));
        Some(command)
    }

    /// Formats a table with a row for every run with test results.
    fn table(&self) -> Result<String> {
        let mut table = String::from(
            "| preset | seed | epochs | minutes of training and validation | images/s | top-1 (95% interval) | top-5 | loss |\n\
             |---|---|---|---|---|---|---|---|\n",
        );
        for (preset, seed) in self.runs() {
            let Ok(run) = RunDirectory::open(self.root(preset, seed)) else {
                continue;
            };
            if run.results().exists() {
                let epochs = MetricsFile::read(run.metrics())?;
                let results = TestResults::read(run.results())?;
                table += &row(preset, seed, &epochs, &results);
            }
        }
        Ok(table)
    }
}

fn row(preset: Preset, seed: u64, epochs: &[EpochMetrics], results: &TestResults) -> String {
    let minutes = epochs.iter().fold(0.0, |sum, epoch| sum + epoch.seconds) / 60.0;
    let speed = epochs.last().map_or(0.0, |epoch| epoch.images_per_second);
    let percent = |share: f64| format!("{:.2}", 100.0 * share);
    let [low, high] = results.acc_interval_95.map(percent);
    let mut row = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        row,
        "| `{preset}` | {seed} | {} | {minutes:.1} | {speed:.0} | {}% ({low} to {high}) | {}% | {:.3} |",
        epochs.len(),
        percent(results.acc),
        percent(results.top5_acc),
        results.loss,
    );
    row
}

/// Returns the command of the comparison with the CPU, built for the device.
fn parity(device: DeviceChoice) -> Command {
    let mut command = cargo();
    command
        .args(["test", "--package", "perceiver-ops", "--test", "devices"])
        .args(program::features(device));
    command
}

/// Runs a command to its end, with its output on the terminal.
fn run(name: &str, command: &mut Command) -> Result<()> {
    let finding = match command.status() {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => format!("{status}; repeat the command to resume"),
        Err(error) => error.to_string(),
    };
    Err(XtaskError::Contestant {
        name: name.to_owned(),
        command: command.get_program().to_string_lossy().into_owned(),
        finding,
    })
}

/// The default benchmarks of a device.
pub const SUBJECTS: [Subject; 4] = [
    Subject::Train,
    Subject::Infer,
    Subject::Kernels,
    Subject::Loader,
];

/// The default presets to train.
pub const PRESETS: [Preset; 4] = [
    Preset::Cifar100,
    Preset::Cifar100Best,
    Preset::Keras,
    Preset::Keras2021,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::tests::bench;

    fn measure(output: &Path) -> Measure {
        Measure {
            only: Vec::new(),
            bench: Bench {
                only: SUBJECTS.to_vec(),
                ..bench(DeviceChoice::Cuda(0))
            },
            presets: vec![Preset::Cifar100, Preset::Keras],
            seeds: 2,
            data_dir: "data".into(),
            output: output.to_path_buf(),
            flags: vec!["--epochs=1".to_string()],
        }
    }

    fn arguments(command: &Command) -> String {
        let arguments = command.get_args().map(|word| word.to_string_lossy());
        arguments.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn runs_are_started_resumed_or_skipped() {
        let output = tempfile::tempdir().unwrap();
        let measure = measure(output.path());
        let runs: Vec<_> = measure.runs().collect();
        assert_eq!(runs[1], (Preset::Keras, 0));
        assert_eq!(runs[2], (Preset::Cifar100, 1));
        let root = measure.root(Preset::Keras, 1);
        let training = || measure.training(Path::new("perceiver"), Preset::Keras, 1);
        let begun = arguments(&training().unwrap());
        let expected = "train --dataset=cifar100 --data-dir data --preset=keras --seed=1 --precision=bf16 --epochs=1 --output";
        assert_eq!(
            begun,
            format!("{expected} {} --device=cuda:0", root.display())
        );

        let run = RunDirectory::unused(&root).unwrap();
        std::fs::create_dir_all(run.state().parent().unwrap()).unwrap();
        std::fs::write(run.recipe(), "").unwrap();
        std::fs::write(run.state(), "").unwrap();
        let resumed = arguments(&training().unwrap());
        assert_eq!(
            resumed,
            format!("train --resume {} --device=cuda:0", root.display())
        );
        std::fs::write(run.results(), "").unwrap();
        assert!(training().is_none());
    }

    #[test]
    fn a_row_shows_the_test_results() {
        let results = TestResults {
            dataset: "cifar100".to_string(),
            sha256: String::new(),
            images: 10_000,
            split: perceiver_data::TestSplit::Own,
            of: None,
            loss: 1.25,
            acc: 0.62,
            acc_interval_95: [0.61, 0.63],
            balanced_acc: Some(0.62),
            macro_f1: Some(0.61),
            top5_acc: 0.87,
            top5_acc_interval_95: [0.86, 0.88],
        };
        let row = row(Preset::Cifar100, 2, &[], &results);
        let expected =
            "| `cifar100` | 2 | 0 | 0.0 | 0 | 62.00% (61.00 to 63.00) | 87.00% | 1.250 |\n";
        assert_eq!(row, expected);
    }
}
