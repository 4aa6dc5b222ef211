//! Times kernels with CUDA events.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, sys};
use candle_core::{CudaDevice, Result};

use crate::cuda::profiler::KernelTime;

/// Whether profiling is on.
static IS_ON: AtomicBool = AtomicBool::new(false);

/// Launches since then, with events before and after each.
static STARTED: Mutex<Vec<(String, [CudaEvent; 2])>> = Mutex::new(Vec::new());

/// Runs `launch` and records its time if profiling is on.
///
/// # Errors
/// Those of `launch`.
pub(crate) fn timed<R>(
    device: &CudaDevice,
    name: impl FnOnce() -> String,
    launch: impl FnOnce() -> Result<R>,
) -> Result<R> {
    if !IS_ON.load(Ordering::Relaxed) {
        return launch();
    }
    let stream = device.cuda_stream();
    let event = || {
        stream
            .record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT))
            .w()
    };
    let before = event()?;
    let result = launch()?;
    let after = event()?;
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    started.push((name(), [before, after]));
    Ok(result)
}

/// Measures everything that `work` launches through this crate.
///
/// # Errors
/// Those of `work`.
pub(crate) fn kernel_times(
    device: &CudaDevice,
    work: impl FnOnce() -> Result<()>,
) -> Result<Vec<KernelTime>> {
    IS_ON.store(true, Ordering::Relaxed);
    let outcome = work();
    IS_ON.store(false, Ordering::Relaxed);
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    let started = std::mem::take(&mut *started);
    outcome?;
    device.cuda_stream().synchronize().w()?;
    let mut times = BTreeMap::<String, KernelTime>::new();
    for (name, [before, after]) in started {
        let seconds = f64::from(before.elapsed_ms(&after).w()?) / 1e3;
        let time = times.entry(name.clone()).or_insert(KernelTime {
            name,
            seconds: 0.0,
            launches: 0,
        });
        time.seconds += seconds;
        time.launches += 1;
    }
    Ok(times.into_values().collect())
}
