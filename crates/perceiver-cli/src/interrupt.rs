//! Ctrl-C and SIGTERM: the first asks the run to finish its step and save, the second ends the program.

use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use perceiver_train::Ranks;

/// The exit code of a program ended by SIGINT, by the shells' convention.
pub(crate) const INTERRUPTED: u8 = 130;

/// What may be the last words of a rank: its starter asks all to end when one is lost, and soon after ends them.
static LAST_WORDS: OnceLock<String> = OnceLock::new();

/// A flag that the first interruption sets.
pub(crate) fn flag(ranks: &dyn Ranks) -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let handle = Arc::clone(&flag);
    // All are asked at once. Of the first and the last, which are on other hosts if any are, one will be there to say it.
    let speaks = ranks.is_first() || ranks.rank() + 1 == ranks.size();
    ctrlc::set_handler(move || {
        if handle.swap(true, Ordering::Relaxed) {
            process::exit(i32::from(INTERRUPTED));
        }
        let words = LAST_WORDS.get().map(String::as_str);
        let words = words.unwrap_or("once more to stop at once, unsaved");
        if speaks {
            tracing::warn!("stopping after this step; {words}");
        }
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(flag)
}

/// What to say to the first interruption, from now on: how to go on with a run of several ranks.
pub(crate) fn set_last_words(resume: &str) {
    let _ = LAST_WORDS.set(format!(
        "if the job ends before that is saved, go on from what was saved last with: mpirun ... {resume}"
    ));
}
