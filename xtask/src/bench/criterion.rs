//! The benchmarks of single operations, `cargo bench -p perceiver-ops`, and the results that
//! Criterion saved.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use perceiver_ops::Bf16Kernel;
use serde::Deserialize;

use super::report::Report;
use crate::cargo::cargo;
use crate::error::{Result, XtaskError};
use crate::progress::Progress;

/// The samples of a benchmark, as saved by Criterion.
#[derive(Deserialize)]
struct Samples {
    iters: Vec<f64>,
    times: Vec<f64>,
}

/// The identifier of a benchmark.
#[derive(Deserialize)]
struct Id {
    full_id: String,
    throughput: Option<Throughput>,
}

/// The work of an iteration.
#[derive(Deserialize)]
struct Throughput {
    /// The number of floating-point operations.
    #[serde(rename = "Elements")]
    operations: Option<f64>,
}

/// Runs the benchmarks and adds `ops.<operation>.<form>.seconds` for each, and for matrix products
/// `ops.<operation>.<form>.gflops`.
pub(super) fn run(report: &mut Report, progress: &dyn Progress) -> Result<()> {
    progress.message("ops: cargo bench --package perceiver-ops");
    if Bf16Kernel::fastest().is_none() {
        progress
            .message("ops: products in bf16 are left out: this CPU has no instructions for them");
    }
    let directory =
        tempfile::tempdir().map_err(XtaskError::io("create", "a temporary directory"))?;
    let status = cargo()
        .args([
            "bench",
            "--package",
            "perceiver-ops",
            "--profile",
            "dev",
            "--bench",
            "ops",
        ])
        .env("CRITERION_HOME", directory.path())
        .env("CANDLE_NUM_THREADS", "1")
        .stdout(Stdio::null())
        .status();
    let finding = match status {
        Ok(status) if status.success() => return read(directory.path(), report),
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    Err(XtaskError::Contestant {
        name: "ops".to_owned(),
        command: "cargo bench --package perceiver-ops".to_owned(),
        finding,
    })
}

/// Reads every `new/` directory below `home`, which holds a name and samples.
fn read(home: &Path, report: &mut Report) -> Result<()> {
    for directory in measured(home)? {
        let id: Id = json(&directory.join("benchmark.json"))?;
        let samples: Samples = json(&directory.join("sample.json"))?;
        let seconds: Vec<f64> = samples
            .times
            .iter()
            .zip(&samples.iters)
            .map(|(nanoseconds, iterations)| 1e-9 * nanoseconds / iterations)
            .collect();
        let name = format!("ops.{}", id.full_id.replace('/', "."));
        report.add(format!("{name}.seconds"), &seconds);
        if let Some(operations) = id.throughput.and_then(|work| work.operations) {
            let rate = |seconds: &f64| 1e-9 * operations / seconds;
            report.add(
                format!("{name}.gflops"),
                &seconds.iter().map(rate).collect::<Vec<_>>(),
            );
        }
    }
    Ok(())
}

fn measured(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = || std::fs::read_dir(directory)?.collect::<std::io::Result<Vec<_>>>();
    let mut samples = Vec::new();
    for entry in entries().map_err(XtaskError::io("read", directory))? {
        let path = entry.path();
        if path.join("sample.json").is_file() && entry.file_name() == "new" {
            samples.push(path);
        } else if path.is_dir() {
            samples.extend(measured(&path)?);
        }
    }
    Ok(samples)
}

fn json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let read = || {
        let text = std::fs::read_to_string(path)?;
        serde_json::from_str(&text).map_err(std::io::Error::other)
    };
    read().map_err(XtaskError::io("read", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::Figure;

    #[test]
    fn samples_of_every_benchmark_are_read() {
        let home = tempfile::tempdir().unwrap();
        let new = home.path().join("gelu/kernel/new");
        std::fs::create_dir_all(&new).unwrap();
        std::fs::write(
            new.join("benchmark.json"),
            r#"{"full_id":"gelu/kernel","throughput":{"Elements":6000000000},"title":""}"#,
        )
        .unwrap();
        let samples = r#"{"sampling_mode":"Linear","iters":[1.0,2.0,4.0],"times":[3e9,4e9,4e9]}"#;
        std::fs::write(new.join("sample.json"), samples).unwrap();
        let mut report = Report::default();
        read(home.path(), &mut report).unwrap();
        let figure = report.get("ops.gelu.kernel.seconds").unwrap();
        assert_eq!(
            (figure.minimum, figure.median, figure.maximum),
            (1.0, 2.0, 3.0)
        );
        let gflops = report.get("ops.gelu.kernel.gflops");
        assert_eq!(gflops, Figure::of(&[2.0, 3.0, 6.0]).as_ref());
    }
}
