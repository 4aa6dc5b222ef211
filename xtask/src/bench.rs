//! `cargo xtask bench`: training, inference and startup speed on this machine, optionally beside
//! other frameworks.
//!
//! A machine's speed changes from second to second, so nothing is timed once. Every contestant of a
//! benchmark is a separate process.
//!
//! Training and inference on a CPU are measured in turns: all contestants are alive, and one at a
//! time is awake ([`alternation`]). In all other benchmarks, and on systems without the signals for
//! that, a contestant warms up, times a few repetitions and exits, round after round. A figure is
//! the median over all slices or rounds. The ratios within one run are what counts.

pub mod alternation;
pub mod cold_start;
mod contest;
pub mod contest_table;
pub mod contestant;
pub mod criterion;
mod gpu;
#[cfg_attr(not(unix), allow(dead_code))]
pub mod interrupt;
pub mod machine;
pub mod peers;
pub(crate) mod program;
mod ranks;
pub mod report;
pub mod worker;
pub mod workload;

use std::path::PathBuf;

use clap::ValueEnum;
use perceiver_train::{DeviceChoice, Precision, Preset};

use crate::error::Result;
use crate::progress::Progress;
use alternation::Alternation;
use contestant::Contestant;
use machine::{CpuTime, Machine};
use peers::{Peer, Peers};
use report::Report;
use worker::Sample;
use workload::{Task, Workload};

/// The individual benchmarks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// Training steps.
    Train,
    /// Forward passes: full batches, a single image, and larger images.
    Infer,
    /// Share of a training step's time by kernel and matrix product, on an NVIDIA GPU.
    Kernels,
    /// Images per second of the loader, including augmentation.
    Loader,
    /// Single operations, compared with compositions of candle operations.
    Ops,
    /// Time from process start to a printed prediction.
    Start,
    /// Training with 2 single-threaded processes compared with 1, under `mpirun`; only on request.
    Ranks,
}

/// Returns the default batch sizes of a device: none (those of the task, or the preset's own), or
/// those common on a GPU.
pub fn usual_batch_sizes(device: DeviceChoice) -> Vec<usize> {
    match device {
        DeviceChoice::Cpu => Vec::new(),
        DeviceChoice::Auto | DeviceChoice::Cuda(_) | DeviceChoice::Metal => vec![64, 256, 1024],
    }
}

/// Returns the default precisions of a device.
pub fn usual_precisions(device: DeviceChoice) -> Vec<Precision> {
    match device {
        DeviceChoice::Cpu => vec![Precision::F32, Precision::Bf16],
        DeviceChoice::Auto | DeviceChoice::Cuda(_) | DeviceChoice::Metal => vec![Precision::Bf16],
    }
}

/// The benchmarks to run, and their options.
#[derive(Clone, Debug)]
pub struct Bench {
    /// The benchmarks to run; all if empty.
    pub only: Vec<Subject>,
    /// The preset of the model.
    pub preset: Preset,
    /// The batch sizes, measured one after another in training and inference. If empty, these are
    /// 16 and 64 in training and 64 in inference, and the preset's own elsewhere.
    pub batch_sizes: Vec<usize>,
    /// Whether training uses activation checkpointing.
    pub recompute: bool,
    /// The device to compute on.
    pub device: DeviceChoice,
    /// The compute precisions of training and inference, which are compared; all else uses the
    /// first. At least one.
    pub precisions: Vec<Precision>,
    /// The peers, if they are to be measured.
    pub peers: Option<Peers>,
    /// How training and inference on a CPU are measured in turns.
    pub alternation: Alternation,
    /// The number of rounds of all else; every contestant runs once per round.
    pub rounds: usize,
    /// The number of timed repetitions per process.
    pub steps: usize,
    /// The directory of the peers' scripts.
    pub scripts: PathBuf,
}

impl Bench {
    /// Runs the requested benchmarks up to the first that fails, and returns what was measured
    /// until then.
    ///
    /// # Errors
    /// When a contestant cannot be started, or fails.
    pub fn run(&self, progress: &dyn Progress) -> (Report, Result<()>) {
        let (mut machine, start) = (Machine::here(), CpuTime::now());
        let mut report = Report::default();
        let outcome = self.run_installed(&mut report, progress);
        let end = CpuTime::now().zip(start);
        machine.steal_share = end.and_then(|(end, start)| end.steal_share_since(start));
        report.set_machine(machine);
        (report, outcome)
    }

    /// Runs the requested benchmarks with those peers that are installed.
    fn run_installed(&self, report: &mut Report, progress: &dyn Progress) -> Result<()> {
        let peers = self.peers.as_ref();
        let peers = peers.map(|peers| peers.installed(self.device, progress));
        let bench = Self {
            peers: peers.transpose()?,
            ..self.clone()
        };
        bench.run_all(report, progress)
    }

    fn run_all(&self, report: &mut Report, progress: &dyn Progress) -> Result<()> {
        if self.includes(Subject::Train) {
            self.contests("train", Task::Train, report, progress)?;
        }
        match self.device {
            DeviceChoice::Cuda(_) if self.includes(Subject::Kernels) => {
                self.kernels(report, progress)?;
            }
            _ if self.only.contains(&Subject::Kernels) => {
                progress.message("kernels: skipped, as they are profiled on --device cuda only");
            }
            _ => {}
        }
        if self.includes(Subject::Infer) {
            self.contests("infer", Task::Infer, report, progress)?;
            if self.batch_sizes == usual_batch_sizes(self.device) {
                self.single_image(report, progress)?;
            }
            self.image_sizes(report, progress)?;
        }
        if self.includes(Subject::Loader) {
            let loader = [self.ours(Task::Loader)];
            let samples = self.rounds("loader", &loader, progress, || Ok(()))?;
            report.add_contest("loader", &loader, &samples);
            report.add_loader_ratios();
        }
        if self.includes(Subject::Start) {
            cold_start::run(self, report, progress)?;
        }
        if self.only.contains(&Subject::Ranks) {
            ranks::run(self, report, progress)?;
        }
        if self.includes(Subject::Ops) {
            criterion::run(report, progress)?;
        }
        Ok(())
    }

    fn includes(&self, subject: Subject) -> bool {
        self.only.is_empty() || self.only.contains(&subject)
    }

    /// Returns the workload of a task at the first batch size.
    fn workload(&self, task: Task) -> Workload {
        Workload {
            task,
            preset: self.preset,
            batch_size: self.batch_sizes.first().copied(),
            image_size: None,
            recompute: self.recompute,
            device: self.device,
            precision: self.precision(),
            steps: self.steps,
            forever: false,
        }
    }

    /// Returns the precision of all that is not compared in several.
    pub(crate) fn precision(&self) -> Precision {
        self.precisions.first().copied().unwrap_or_default()
    }

    fn ours(&self, task: Task) -> Contestant {
        Contestant::ours(&self.workload(task))
    }

    /// Returns the interpreter that has a peer, if it is to be measured.
    fn python_of(&self, peer: Peer) -> Option<&str> {
        let peers = self.peers.as_ref()?;
        peers.only.contains(&peer).then_some(peers.python.as_str())
    }

    /// Measures the share of a training step's GPU time by kernel.
    fn kernels(&self, report: &mut Report, progress: &dyn Progress) -> Result<()> {
        let contestant = self.ours(Task::Kernels);
        let mut samples = Vec::new();
        for round in 1..=self.rounds {
            progress.message(&format!("kernels, round {round} of {}", self.rounds));
            samples.push(contestant.run()?);
        }
        gpu::add("train", &samples, report);
        Ok(())
    }

    fn single_image(&self, report: &mut Report, progress: &dyn Progress) -> Result<()> {
        let mut workload = self.workload(Task::Infer);
        workload.batch_size = Some(1);
        workload.steps *= 4;
        self.contest("infer_one", &workload, report, progress)
    }

    /// Measures forward passes at image sizes of 32 to 256 pixels. Their time should grow with the
    /// number of tokens.
    fn image_sizes(&self, report: &mut Report, progress: &dyn Progress) -> Result<()> {
        let sides = [32, 64, 128, 256];
        let contestants = sides.map(|side| {
            let mut workload = self.workload(Task::Infer);
            workload.batch_size = Some(2);
            workload.image_size = Some(side);
            Contestant::ours(&workload)
        });
        let samples = self.rounds("sizes", &contestants, progress, || Ok(()))?;
        for (side, samples) in sides.iter().zip(&samples) {
            report.add_samples(&format!("infer_{side}px"), samples);
        }
        Ok(())
    }

    /// Runs all contestants and returns one sample per round: `[contestants][rounds]`.
    fn rounds(
        &self,
        name: &str,
        contestants: &[Contestant],
        progress: &dyn Progress,
        mut every_round: impl FnMut() -> Result<()>,
    ) -> Result<Vec<Vec<Sample>>> {
        let mut samples = vec![Vec::new(); contestants.len()];
        for round in 1..=self.rounds {
            every_round()?;
            for (contestant, samples) in contestants.iter().zip(&mut samples) {
                let who = &contestant.name;
                progress.message(&format!("{name}, round {round} of {}: {who}", self.rounds));
                samples.push(contestant.run()?);
            }
        }
        Ok(samples)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;

    /// Returns a benchmark of preset `keras` with the defaults of a device.
    pub(crate) fn bench(device: DeviceChoice) -> Bench {
        Bench {
            only: Vec::new(),
            preset: Preset::Keras,
            batch_sizes: usual_batch_sizes(device),
            recompute: false,
            device,
            precisions: usual_precisions(device),
            peers: None,
            alternation: Alternation {
                slice: Duration::from_secs(1),
                cycles: 1,
                warm_up: 1,
                seed: 0,
            },
            rounds: 1,
            steps: 1,
            scripts: PathBuf::new(),
        }
    }
}
