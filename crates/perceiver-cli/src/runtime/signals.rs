//! Signal handling: the first Ctrl-C or SIGTERM asks the run to finish its step and save, the
//! second ends the program.

use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use perceiver_train::Communicator;

/// The exit code of a program ended by SIGINT, by shell convention.
pub(crate) const INTERRUPTED: u8 = 130;

/// The message on interruption, perhaps the last of a rank: if one is lost, the launcher asks all
/// to end, and soon kills them.
static INTERRUPT_MESSAGE: OnceLock<String> = OnceLock::new();

/// The flag that the first interruption sets, and whether it is reported.
static INTERRUPT: OnceLock<(Arc<AtomicBool>, bool)> = OnceLock::new();

/// Returns a flag that the first interruption sets.
pub(crate) fn flag(ranks: &dyn Communicator) -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    // All ranks are signaled at once. The first and the last, on different hosts if there are
    // several, both print, so that at least one message arrives.
    let prints = ranks.is_first() || ranks.rank() + 1 == ranks.size();
    let _ = INTERRUPT.set((Arc::clone(&flag), prints));
    ctrlc::set_handler(interrupt).context("cannot install a handler for Ctrl-C")?;
    Ok(flag)
}

/// Interrupts the training, as Ctrl-C does: a view in the terminal gets Ctrl-C as a key.
pub(crate) fn interrupt() {
    let Some((flag, prints)) = INTERRUPT.get() else {
        return;
    };
    if flag.swap(true, Ordering::Relaxed) {
        #[cfg(feature = "tui")]
        crate::ui::tui::restore();
        process::exit(i32::from(INTERRUPTED));
    }
    let message = INTERRUPT_MESSAGE.get().map(String::as_str);
    let message = message.unwrap_or("press Ctrl-C again to quit without saving");
    if *prints {
        tracing::warn!("stopping after this step; {message}");
    }
}

/// Sets the message on the first interruption: how to resume a run of several ranks.
pub(crate) fn set_interrupt_message(resume: &str) {
    let _ = INTERRUPT_MESSAGE.set(format!(
        "if the job ends before saving, resume from the last saved state with: mpirun ... {resume}"
    ));
}
