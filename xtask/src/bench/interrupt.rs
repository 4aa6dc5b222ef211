//! Ctrl-C while processes of a benchmark must be killed before this program ends.

use std::process;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

/// The exit code of a program ended by SIGINT, by shell convention.
pub const INTERRUPTED: u8 = 130;

static IS_CAUGHT: AtomicBool = AtomicBool::new(false);
static REQUESTED: AtomicBool = AtomicBool::new(false);

/// While it exists, Ctrl-C, SIGTERM and SIGHUP set a flag instead of ending this program.
pub(super) struct Interrupt(());

impl Interrupt {
    /// Starts to catch signals.
    pub(super) fn catch() -> Self {
        static HANDLER: Once = Once::new();
        HANDLER.call_once(|| {
            // Without a handler, a signal ends this program, and the system ends the stopped
            // processes.
            let _ = ctrlc::set_handler(|| {
                if IS_CAUGHT.load(Ordering::SeqCst) {
                    REQUESTED.store(true, Ordering::SeqCst);
                } else {
                    process::exit(i32::from(INTERRUPTED));
                }
            });
        });
        REQUESTED.store(false, Ordering::SeqCst);
        IS_CAUGHT.store(true, Ordering::SeqCst);
        Self(())
    }

    /// Returns the flag that a signal sets.
    #[expect(
        clippy::unused_self,
        reason = "the flag is of use while signals are caught"
    )]
    pub(super) fn requested(&self) -> &'static AtomicBool {
        &REQUESTED
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        IS_CAUGHT.store(false, Ordering::SeqCst);
    }
}
