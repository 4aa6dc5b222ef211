//! `perceiver train` under `mpirun`: one single-threaded process, and several of them on the same
//! batches.

use std::path::Path;
use std::process::Command;

use perceiver_train::{MetricsFile, RunDirectory};

use super::report::Report;
use super::workload::Task;
use super::{Bench, program};
use crate::error::{Result, XtaskError};
use crate::progress::Progress;

/// The numbers of processes to compare.
const SIZES: [usize; 2] = [1, 2];

/// Adds `ranks_1.images_per_second`, `ranks_2.images_per_second` and, once per round, their ratio.
/// The first epoch of a job is the warm-up; the second has the timed steps.
pub(super) fn run(bench: &Bench, report: &mut Report, progress: &dyn Progress) -> Result<()> {
    progress.message("ranks: building the program");
    let program = program::build(&["--features=mpi"])?;
    let mut speeds = SIZES.map(|_| Vec::new());
    for round in 1..=bench.rounds {
        for (size, speeds) in SIZES.into_iter().zip(&mut speeds) {
            let rounds = bench.rounds;
            progress.message(&format!("ranks, round {round} of {rounds}: {size}"));
            speeds.push(images_per_second(bench, &program, size)?);
        }
    }
    for (size, speeds) in SIZES.into_iter().zip(&speeds) {
        report.add(format!("ranks_{size}.images_per_second"), speeds);
    }
    let [one, several] = speeds;
    let ratios = several.iter().zip(&one).map(|(several, one)| several / one);
    report.add("ranks_2.times_1", &ratios.collect::<Vec<_>>());
    Ok(())
}

fn images_per_second(bench: &Bench, program: &Path, size: usize) -> Result<f64> {
    let directory =
        tempfile::tempdir().map_err(XtaskError::io("create", "a temporary directory"))?;
    let run = directory.path().join("run");
    let batch = bench.workload(Task::Train).batch()?;
    let images = batch * bench.steps + 1; // the last one is for validation
    let name = format!("{size} ranks");
    let mut command = Command::new("mpirun");
    command
        .args(["-n", &size.to_string()])
        .arg(program)
        .args(["train", "--dataset=shapes", "--epochs=2", "--limit-test=1"])
        .arg(format!("--preset={}", bench.preset))
        .arg(format!("--device={}", bench.device))
        .arg(format!("--batch-size={batch}"))
        .arg(format!("--limit-train={images}"))
        .arg(format!(
            "--set=data.validation_fraction={}",
            0.5 / images as f64
        ))
        .args(bench.recompute.then_some("--recompute"))
        .arg("--output")
        .arg(&run)
        .env("RAYON_NUM_THREADS", "1");
    program::run(&name, &mut command)?;
    let epochs = MetricsFile::read(RunDirectory::open(&run)?.metrics())?;
    let last = epochs.last().ok_or_else(|| XtaskError::Contestant {
        name,
        command: "mpirun".to_owned(),
        finding: "expected an epoch in its metrics, found none".to_owned(),
    })?;
    Ok(last.images_per_second)
}
