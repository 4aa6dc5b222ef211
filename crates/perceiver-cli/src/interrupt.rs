//! Ctrl-C and SIGTERM: the first asks the run to finish its step and save, the second ends the program.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

/// The exit code of a program ended by SIGINT, by the shells' convention.
pub(crate) const INTERRUPTED: u8 = 130;

/// A flag that the first interruption sets.
pub(crate) fn flag() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let handle = Arc::clone(&flag);
    ctrlc::set_handler(move || {
        if handle.swap(true, Ordering::Relaxed) {
            process::exit(i32::from(INTERRUPTED));
        }
        tracing::warn!("stopping after this step; once more to stop at once, unsaved");
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(flag)
}
