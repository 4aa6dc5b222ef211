//! `cargo xtask bench`: training, inference and startup speed on this machine, optionally beside
//! other frameworks.
//!
//! A machine's speed changes from minute to minute, so nothing is timed once. Every contestant of a
//! benchmark is a separate process that warms up, times a few repetitions and exits. The
//! contestants take turns, round after round, and a figure is the median over all rounds. The
//! ratios within one run are what counts.

pub mod cold_start;
pub mod contestant;
pub mod criterion;
mod gpu;
pub mod peers;
pub(crate) mod program;
mod ranks;
pub mod report;
pub mod worker;
pub mod workload;

use std::path::PathBuf;

use clap::ValueEnum;
use perceiver_train::{DeviceChoice, Precision, Preset};

use crate::error::{Result, XtaskError};
use crate::progress::Progress;
use crate::python;
use contestant::Contestant;
use peers::Peer;
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

/// Returns the default batch sizes of a device: none (the preset's own), or those common on a GPU.
pub fn usual_batch_sizes(device: DeviceChoice) -> Vec<usize> {
    match device {
        DeviceChoice::Cpu => Vec::new(),
        DeviceChoice::Auto | DeviceChoice::Cuda(_) | DeviceChoice::Metal => vec![64, 256, 1024],
    }
}

/// Returns the default precision of a device.
pub const fn usual_precision(device: DeviceChoice) -> Precision {
    match device {
        DeviceChoice::Cpu => Precision::F32,
        DeviceChoice::Auto | DeviceChoice::Cuda(_) | DeviceChoice::Metal => Precision::Bf16,
    }
}

/// The benchmarks to run, and their options.
#[derive(Clone, Debug)]
pub struct Bench {
    /// The benchmarks to run; all if empty.
    pub only: Vec<Subject>,
    /// The preset of the model.
    pub preset: Preset,
    /// The batch sizes, measured one after another in training and inference; the preset's own if
    /// empty.
    pub batch_sizes: Vec<usize>,
    /// Whether training uses activation checkpointing.
    pub recompute: bool,
    /// The device to compute on.
    pub device: DeviceChoice,
    /// The compute precision.
    pub precision: Precision,
    /// A Python interpreter with the peers, if they are to be measured.
    pub peers: Option<String>,
    /// The number of rounds; every contestant runs once per round.
    pub rounds: usize,
    /// The number of timed repetitions per process.
    pub steps: usize,
    /// The directory of the peers' scripts.
    pub scripts: PathBuf,
}

impl Bench {
    /// Runs the requested benchmarks.
    ///
    /// # Errors
    /// When a contestant cannot be started, or fails.
    pub fn run(&self, progress: &dyn Progress) -> Result<Report> {
        if let Some(python) = &self.peers {
            let [modules, packages] = Peer::needs(self.device);
            python::check(python, modules).map_err(|finding| XtaskError::NoPeers {
                python: python.clone(),
                finding,
                packages,
            })?;
        }
        let mut report = Report::default();
        if self.includes(Subject::Train) {
            self.in_turns("train", Task::Train, &mut report, progress)?;
        }
        match self.device {
            DeviceChoice::Cuda(_) if self.includes(Subject::Kernels) => {
                self.kernels(&mut report, progress)?;
            }
            _ if self.only.contains(&Subject::Kernels) => {
                progress.message("kernels: skipped, as they are profiled on --device cuda only");
            }
            _ => {}
        }
        if self.includes(Subject::Infer) {
            self.in_turns("infer", Task::Infer, &mut report, progress)?;
            self.single_image(&mut report, progress)?;
            self.image_sizes(&mut report, progress)?;
        }
        if self.includes(Subject::Loader) {
            let loader = [self.ours(Task::Loader)];
            self.compare("loader", &loader, &mut report, progress)?;
            report.add_loader_ratios();
        }
        if self.includes(Subject::Start) {
            cold_start::run(self, &mut report, progress)?;
        }
        if self.only.contains(&Subject::Ranks) {
            ranks::run(self, &mut report, progress)?;
        }
        if self.includes(Subject::Ops) {
            criterion::run(&mut report, progress)?;
        }
        Ok(report)
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
            precision: self.precision,
            steps: self.steps,
        }
    }

    fn ours(&self, task: Task) -> Contestant {
        Contestant::ours(&self.workload(task))
    }

    fn peers_of(&self, workload: &Workload) -> Result<Vec<Contestant>> {
        let Some(python) = &self.peers else {
            return Ok(Vec::new());
        };
        Peer::on(self.device)
            .iter()
            .map(|&peer| Contestant::peer(peer, python, &self.scripts, workload))
            .collect()
    }

    /// Measures our process, matrix products alone, and the peers at every batch size, as `<name>`,
    /// or `<name>_<batch size>` for several.
    fn in_turns(
        &self,
        name: &str,
        task: Task,
        report: &mut Report,
        progress: &dyn Progress,
    ) -> Result<()> {
        if self.batch_sizes.len() < 2 {
            return self.contest(name, &self.workload(task), report, progress);
        }
        for &batch_size in &self.batch_sizes {
            let mut workload = self.workload(task);
            workload.batch_size = Some(batch_size);
            self.contest(&format!("{name}_{batch_size}"), &workload, report, progress)?;
        }
        Ok(())
    }

    fn contest(
        &self,
        name: &str,
        workload: &Workload,
        report: &mut Report,
        progress: &dyn Progress,
    ) -> Result<()> {
        let mut contestants = vec![Contestant::ours(workload)];
        contestants.extend(self.peers_of(workload)?);
        let products = self.ours(Task::Products);
        let mut rates = Vec::new();
        let samples = self.rounds(name, &contestants, progress, || {
            let sample: Sample = products.run()?;
            rates.extend(sample.per_second());
            Ok(())
        })?;
        report.add_contest(name, &contestants, &samples);
        let ours: Vec<f64> = samples[0].iter().flat_map(Sample::per_second).collect();
        let needed = workload.multiply_adds()? as f64;
        report.add_rates(name, &ours, needed, &rates);
        Ok(())
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
        let mut contestants = vec![Contestant::ours(&workload)];
        contestants.extend(self.peers_of(&workload)?);
        self.compare("infer_one", &contestants, report, progress)
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

    fn compare(
        &self,
        name: &str,
        contestants: &[Contestant],
        report: &mut Report,
        progress: &dyn Progress,
    ) -> Result<()> {
        let samples = self.rounds(name, contestants, progress, || Ok(()))?;
        report.add_contest(name, contestants, &samples);
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
