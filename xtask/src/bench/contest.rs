//! A contest: our program and the peers at the same work, in every precision, beside matrix products
//! alone.

use perceiver_train::{DeviceChoice, Precision};

use super::Bench;
#[cfg(unix)]
use super::alternation::Stint;
#[cfg(unix)]
use super::contest_table::ContestTable;
use super::contestant::Contestant;
#[cfg(unix)]
use super::interrupt::Interrupt;
use super::report::Report;
use super::worker::Sample;
use super::workload::{Task, Workload};
use crate::error::Result;
use crate::progress::Progress;

/// The default batch sizes of training on a CPU.
const TRAINING: [usize; 2] = [16, 64];

/// The default batch size of inference on a CPU, beside single images.
const INFERENCE: usize = 64;

impl Bench {
    /// Measures a task at every batch size, as `<name>`, or `<name>_<batch size>` for several.
    pub(super) fn contests(
        &self,
        name: &str,
        task: Task,
        report: &mut Report,
        progress: &dyn Progress,
    ) -> Result<()> {
        let sizes = self.batch_sizes_of(task);
        for &batch_size in &sizes {
            let mut workload = self.workload(task);
            workload.batch_size = Some(batch_size);
            match sizes.len() {
                1 => self.contest(name, &workload, report, progress)?,
                _ => self.contest(&format!("{name}_{batch_size}"), &workload, report, progress)?,
            }
        }
        Ok(())
    }

    /// Returns the given batch sizes, or the default ones of a task on a CPU.
    fn batch_sizes_of(&self, task: Task) -> Vec<usize> {
        match task {
            _ if !self.batch_sizes.is_empty() => self.batch_sizes.clone(),
            Task::Train => TRAINING.to_vec(),
            _ => vec![INFERENCE],
        }
    }

    /// Measures one contest.
    pub(super) fn contest(
        &self,
        name: &str,
        workload: &Workload,
        report: &mut Report,
        progress: &dyn Progress,
    ) -> Result<()> {
        #[cfg(unix)]
        if self.alternates() {
            return self.alternate(name, workload, report, progress);
        }
        #[cfg(not(unix))]
        if self.alternates() {
            progress.message(
                "this system has no signals that stop a process, so contestants run one after another",
            );
        }
        self.one_after_another(name, workload, report, progress)
    }

    /// Whether contestants are woken in turns. A stopped process may leave work on a GPU.
    fn alternates(&self) -> bool {
        self.device == DeviceChoice::Cpu
    }

    /// Returns our program and the peers, in every precision that they have.
    fn contestants(&self, workload: &Workload) -> Result<Vec<Contestant>> {
        let with = |precision| Workload {
            precision,
            ..workload.clone()
        };
        let mut contestants = Vec::new();
        for &precision in &self.precisions {
            contestants.push(Contestant::ours(&with(precision)));
        }
        if let Some(peers) = &self.peers {
            for &peer in &peers.only {
                for &precision in self.precisions.iter().filter(|one| peer.has(**one)) {
                    let workload = with(precision);
                    contestants.push(Contestant::peer(
                        peer,
                        &peers.python,
                        &self.scripts,
                        &workload,
                    )?);
                }
            }
        }
        Ok(contestants)
    }

    /// Returns matrix products alone, in f32 on a CPU.
    fn products(&self, forever: bool) -> Contestant {
        let mut workload = Workload {
            forever,
            ..self.workload(Task::Products)
        };
        if self.device == DeviceChoice::Cpu {
            workload.precision = Precision::F32;
        }
        Contestant::named(format!("products-{}", workload.precision), &workload)
    }

    /// Wakes the contestants in turns.
    #[cfg(unix)]
    fn alternate(
        &self,
        name: &str,
        workload: &Workload,
        report: &mut Report,
        progress: &dyn Progress,
    ) -> Result<()> {
        let workload = Workload {
            forever: true,
            ..workload.clone()
        };
        let contestants = self.contestants(&workload)?;
        let products = self.products(true);
        let all = [&contestants[..], std::slice::from_ref(&products)].concat();
        let interrupt = Interrupt::catch();
        let stints = self
            .alternation
            .run(name, &all, interrupt.requested(), progress)?;
        drop(interrupt);

        let samples: Vec<Vec<Sample>> = stints.iter().map(Stint::samples).collect();
        let mut table = ContestTable::new(name, self.title(&workload)?);
        let multiply_adds = workload.multiply_adds()? as f64;
        for (contestant, stint) in all.iter().zip(stints) {
            if contestant.name == products.name {
                table.add_products(&contestant.name, stint);
            } else {
                table.add_images(&contestant.name, stint, multiply_adds);
            }
        }
        report.add_table(table);
        let (samples, rates) = samples.split_at(contestants.len());
        report.add_contest(name, &contestants, samples);
        let rates: Vec<f64> = rates[0].iter().flat_map(Sample::per_second).collect();
        add_rates(name, &workload, samples, &rates, report)
    }

    /// Describes a contest in turns.
    #[cfg(unix)]
    fn title(&self, workload: &Workload) -> Result<String> {
        let step = match workload.task {
            Task::Train => "training steps",
            _ => "forward passes",
        };
        let (cycles, slice) = (
            self.alternation.cycles,
            self.alternation.slice.as_secs_f64(),
        );
        Ok(format!(
            "{step} of preset {}, batch size {}, {cycles} slices of {slice:.1} s each",
            workload.preset,
            workload.batch()?,
        ))
    }

    /// Runs the contestants as whole processes, one after another, round after round.
    fn one_after_another(
        &self,
        name: &str,
        workload: &Workload,
        report: &mut Report,
        progress: &dyn Progress,
    ) -> Result<()> {
        let contestants = self.contestants(workload)?;
        let products = self.products(false);
        let mut rates = Vec::new();
        let samples = self.rounds(name, &contestants, progress, || {
            let sample: Sample = products.run()?;
            rates.extend(sample.per_second());
            Ok(())
        })?;
        report.add_contest(name, &contestants, &samples);
        add_rates(name, workload, &samples, &rates, report)
    }
}

/// Adds the rate of our program in the first precision, and that of products alone.
fn add_rates(
    name: &str,
    workload: &Workload,
    samples: &[Vec<Sample>],
    rates: &[f64],
    report: &mut Report,
) -> Result<()> {
    let ours: Vec<f64> = samples[0].iter().flat_map(Sample::per_second).collect();
    report.add_rates(name, &ours, workload.multiply_adds()? as f64, rates);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::peers::{Peer, Peers};
    use crate::bench::tests::bench;

    #[test]
    fn every_program_takes_part_in_every_precision_that_it_has() {
        let peers = Peers {
            python: "python3".into(),
            only: Peer::on(DeviceChoice::Cpu).to_vec(),
        };
        let bench = Bench {
            peers: Some(peers),
            ..bench(DeviceChoice::Cpu)
        };
        let workload = bench.workload(Task::Train);
        let names: Vec<String> = bench
            .contestants(&workload)
            .unwrap()
            .into_iter()
            .map(|c| c.name)
            .collect();
        let expected = [
            "perceiver-f32",
            "perceiver-bf16",
            "pytorch-compiled-f32",
            "pytorch-compiled-bf16",
            "keras-tensorflow-f32",
            "keras-tensorflow-bf16",
            "keras-jax-f32",
        ];
        assert_eq!(names, expected);
        assert_eq!(bench.products(true).name, "products-f32");
    }

    #[test]
    fn batch_sizes_are_those_given_or_those_of_the_task() {
        let mut bench = bench(DeviceChoice::Cpu);
        assert_eq!(bench.batch_sizes_of(Task::Train), [16, 64]);
        assert_eq!(bench.batch_sizes_of(Task::Infer), [64]);
        bench.batch_sizes = vec![8];
        assert_eq!(bench.batch_sizes_of(Task::Train), [8]);
    }
}
