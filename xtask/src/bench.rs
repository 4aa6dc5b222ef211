//! `cargo xtask bench`: how fast the model trains, predicts and starts on this machine, on request beside its peers.
//!
//! A machine's speed changes from minute to minute, so nothing is timed once. Every contestant of a benchmark is a
//! process of its own that warms up, times a few repetitions and ends; the contestants take turns, round after round,
//! and a figure is the median over all rounds. What counts are the ratios within one run.

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
use crate::observer::Observer;
use crate::python;
use contestant::Contestant;
use peers::Peer;
use report::Report;
use worker::Sample;
use workload::{Task, Workload};

/// What can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// Training steps.
    Train,
    /// Forward passes: whole batches, one picture, and larger pictures.
    Infer,
    /// How a training step's time is divided among kernels and products, on an NVIDIA GPU.
    Kernels,
    /// Pictures through the loader, augmentation included.
    Loader,
    /// Single operations beside their compositions of candle's.
    Ops,
    /// From the start of the process to a printed prediction.
    Start,
    /// Training by 2 processes of one thread beside 1, under `mpirun`; only on request.
    Ranks,
}

/// The batch sizes of a device unless others are asked for: none, for the preset's own, or those that a GPU is used with.
pub fn usual_batch_sizes(device: DeviceChoice) -> Vec<usize> {
    match device {
        DeviceChoice::Cpu => Vec::new(),
        DeviceChoice::Auto | DeviceChoice::Cuda(_) | DeviceChoice::Metal => vec![64, 256, 1024],
    }
}

/// The precision of a device unless another is asked for.
pub const fn usual_precision(device: DeviceChoice) -> Precision {
    match device {
        DeviceChoice::Cpu => Precision::F32,
        DeviceChoice::Auto | DeviceChoice::Cuda(_) | DeviceChoice::Metal => Precision::Bf16,
    }
}

/// Which benchmarks to run, and how.
#[derive(Clone, Debug)]
pub struct Bench {
    /// Only these; all when empty.
    pub only: Vec<Subject>,
    /// The preset whose model is measured.
    pub preset: Preset,
    /// Pictures in a batch, one after another in training and inference; the preset's own number if empty.
    pub batch_sizes: Vec<usize>,
    /// Whether training recomputes.
    pub recompute: bool,
    /// Where to compute.
    pub device: DeviceChoice,
    /// In what numbers.
    pub precision: Precision,
    /// A Python with the peers, to be measured too.
    pub peers: Option<String>,
    /// How often every contestant has its turn.
    pub rounds: usize,
    /// Timed repetitions a turn.
    pub steps: usize,
    /// The directory with the peers' scripts.
    pub scripts: PathBuf,
}

impl Bench {
    /// Measures everything asked for.
    ///
    /// # Errors
    /// When a contestant cannot be started or fails.
    pub fn run(&self, observer: &dyn Observer) -> Result<Report> {
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
            self.in_turns("train", Task::Train, &mut report, observer)?;
        }
        match self.device {
            DeviceChoice::Cuda(_) if self.includes(Subject::Kernels) => {
                self.kernels(&mut report, observer)?;
            }
            _ if self.only.contains(&Subject::Kernels) => {
                observer.say("kernels: left out, since they are noted on --device cuda alone");
            }
            _ => {}
        }
        if self.includes(Subject::Infer) {
            self.in_turns("infer", Task::Infer, &mut report, observer)?;
            self.one_picture(&mut report, observer)?;
            self.larger_pictures(&mut report, observer)?;
        }
        if self.includes(Subject::Loader) {
            let loader = [self.ours(Task::Loader)];
            self.compare("loader", &loader, &mut report, observer)?;
            report.add_loader_ratios();
        }
        if self.includes(Subject::Start) {
            cold_start::run(self, &mut report, observer)?;
        }
        if self.only.contains(&Subject::Ranks) {
            ranks::run(self, &mut report, observer)?;
        }
        if self.includes(Subject::Ops) {
            criterion::run(&mut report, observer)?;
        }
        Ok(report)
    }

    fn includes(&self, subject: Subject) -> bool {
        self.only.is_empty() || self.only.contains(&subject)
    }

    /// That of the first batch size.
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

    /// Ours, the rate of matrix products alone, and the peers, with every batch size: `<name>`, or of several `<name>_<batch size>`.
    fn in_turns(
        &self,
        name: &str,
        task: Task,
        report: &mut Report,
        observer: &dyn Observer,
    ) -> Result<()> {
        if self.batch_sizes.len() < 2 {
            return self.contest(name, &self.workload(task), report, observer);
        }
        for &batch_size in &self.batch_sizes {
            let mut workload = self.workload(task);
            workload.batch_size = Some(batch_size);
            self.contest(&format!("{name}_{batch_size}"), &workload, report, observer)?;
        }
        Ok(())
    }

    fn contest(
        &self,
        name: &str,
        workload: &Workload,
        report: &mut Report,
        observer: &dyn Observer,
    ) -> Result<()> {
        let mut contestants = vec![Contestant::ours(workload)];
        contestants.extend(self.peers_of(workload)?);
        let products = self.ours(Task::Products);
        let mut rates = Vec::new();
        let samples = self.rounds(name, &contestants, observer, || {
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

    /// How a training step's time on the GPU is divided.
    fn kernels(&self, report: &mut Report, observer: &dyn Observer) -> Result<()> {
        let contestant = self.ours(Task::Kernels);
        let mut samples = Vec::new();
        for round in 1..=self.rounds {
            observer.say(&format!("kernels, round {round} of {}", self.rounds));
            samples.push(contestant.run()?);
        }
        gpu::add("train", &samples, report);
        Ok(())
    }

    fn one_picture(&self, report: &mut Report, observer: &dyn Observer) -> Result<()> {
        let mut workload = self.workload(Task::Infer);
        workload.batch_size = Some(1);
        workload.steps *= 4;
        let mut contestants = vec![Contestant::ours(&workload)];
        contestants.extend(self.peers_of(&workload)?);
        self.compare("infer_one", &contestants, report, observer)
    }

    /// Forward passes of 32 to 256 pixels a side: their time should grow as the number of tokens does.
    fn larger_pictures(&self, report: &mut Report, observer: &dyn Observer) -> Result<()> {
        let sides = [32, 64, 128, 256];
        let contestants = sides.map(|side| {
            let mut workload = self.workload(Task::Infer);
            workload.batch_size = Some(2);
            workload.image_size = Some(side);
            Contestant::ours(&workload)
        });
        let samples = self.rounds("sizes", &contestants, observer, || Ok(()))?;
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
        observer: &dyn Observer,
    ) -> Result<()> {
        let samples = self.rounds(name, contestants, observer, || Ok(()))?;
        report.add_contest(name, contestants, &samples);
        Ok(())
    }

    /// Everyone's samples, one a round: `[contestants][rounds]`.
    fn rounds(
        &self,
        name: &str,
        contestants: &[Contestant],
        observer: &dyn Observer,
        mut every_round: impl FnMut() -> Result<()>,
    ) -> Result<Vec<Vec<Sample>>> {
        let mut samples = vec![Vec::new(); contestants.len()];
        for round in 1..=self.rounds {
            every_round()?;
            for (contestant, samples) in contestants.iter().zip(&mut samples) {
                let who = &contestant.name;
                observer.say(&format!("{name}, round {round} of {}: {who}", self.rounds));
                samples.push(contestant.run()?);
            }
        }
        Ok(samples)
    }
}
