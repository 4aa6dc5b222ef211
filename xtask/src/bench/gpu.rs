//! GPU-only measurements: matrix products, and the time of a step by kernel.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use perceiver_ops::kernel_times;
use perceiver_train::Precision;
use serde::{Deserialize, Serialize};

use super::report::Report;
use super::workload::{Repeat, Workload};
use crate::error::Result;

/// The side of the matrices whose products measure the peak rate of a GPU.
pub(super) const SIDE: usize = 8_192;

/// The number of steps whose kernels are profiled.
const STEPS: usize = 5;

/// The duration of one step in seconds: in total, and by kernel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct KernelSample {
    whole: f64,
    kernels: BTreeMap<String, f64>,
}

/// Returns a product of two square matrices in a precision.
pub(super) fn product(precision: Precision, device: &Device) -> Result<Repeat> {
    let matrix = Tensor::rand(-1f32, 1.0, (SIDE, SIDE), device)?.to_dtype(precision.dtype())?;
    precision.set_up(device)?;
    Ok(Box::new(move || Ok(matrix.matmul(&matrix).map(drop)?)))
}

/// Measures the kernels of a workload. Profiling takes time itself, so the total is that of steps
/// without profiling.
pub(super) fn kernels(workload: &Workload) -> Result<KernelSample> {
    let device = workload.device.open()?;
    let mut repeat = workload.repeat(&device)?;
    let seconds = workload.timed(&device, &mut repeat)?;
    let whole = seconds.iter().sum::<f64>() / seconds.len() as f64;
    let times = kernel_times(&device, || {
        for _ in 0..STEPS {
            repeat().map_err(candle_core::Error::wrap)?;
        }
        Ok(())
    })?;
    let kernels = times.into_iter().map(|time| {
        let seconds = time.seconds / STEPS as f64;
        (format!("{} x{}", time.name, time.launches / STEPS), seconds)
    });
    Ok(KernelSample {
        whole,
        kernels: kernels.collect(),
    })
}

/// Adds the share of every kernel in a step, `<name>.share_of_time.<kernel> x<launches>`, and that
/// of everything not profiled.
pub(super) fn add(name: &str, samples: &[KernelSample], report: &mut Report) {
    let mut shares = BTreeMap::<&str, Vec<f64>>::new();
    for sample in samples {
        let recorded: f64 = sample.kernels.values().sum();
        let rest = ("everything else", (sample.whole - recorded).max(0.0));
        let kernels = sample
            .kernels
            .iter()
            .map(|(name, seconds)| (name.as_str(), *seconds));
        for (kernel, seconds) in kernels.chain([rest]) {
            let of_kernel = shares.entry(kernel).or_default();
            of_kernel.push(seconds / sample.whole);
        }
    }
    for (kernel, shares) in shares {
        report.add(format!("{name}.share_of_time.{kernel}"), &shares);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_relative_to_the_whole_step() {
        let kernels = [("gelu x8", 0.25), ("product 2x3x4 x1", 1.0)];
        let kernels = kernels.map(|(name, seconds)| (name.to_string(), seconds));
        let sample = KernelSample {
            whole: 2.0,
            kernels: kernels.into_iter().collect(),
        };
        let mut report = Report::default();
        add("train", &[sample], &mut report);
        let share = |kernel: &str| {
            let figure = report.get(&format!("train.share_of_time.{kernel}"));
            figure.unwrap().median
        };
        let shares = [
            share("gelu x8"),
            share("product 2x3x4 x1"),
            share("everything else"),
        ];
        assert_eq!(
            shares.map(f64::to_bits),
            [0.125f64, 0.5, 0.375].map(f64::to_bits)
        );
    }
}
