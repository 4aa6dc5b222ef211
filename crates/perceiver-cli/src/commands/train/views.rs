//! The views of a run in training: `--dashboard` and `--terminal`.

use std::num::NonZeroUsize;

use anyhow::Result;
use perceiver_train::RunDirectory;

use crate::ui::dashboard::{self, OpenView};

/// How a run is shown while it trains; nothing of it changes the run.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Watching")]
pub(crate) struct ViewFlags {
    /// Serve the report of the run to a browser on this machine, updated while it trains; PORT is 8081
    /// by default, or any free one if it is in use. `perceiver watch` does so for any run.
    #[expect(clippy::option_option)] // with and without a port
    #[arg(long, value_name = "PORT", num_args = 0..=1, require_equals = true, conflicts_with = "sweep")]
    dashboard: Option<Option<u16>>,

    /// Show curves, remaining time, speed, memory, warnings and the log in the terminal, in place of
    /// progress bars; the log is printed when the view is closed.
    #[arg(long, visible_alias = "tui", conflicts_with = "sweep")]
    terminal: bool,

    /// Record histograms of weights and gradients for TensorBoard after every N-th epoch.
    #[arg(long, value_name = "N", conflicts_with = "sweep")]
    pub(crate) histograms: Option<NonZeroUsize>,
}

/// The views of a run, which are closed when this is dropped.
#[derive(Default)]
pub(crate) struct Views {
    flags: ViewFlags,
    terminal: Option<OpenView>,
    page: Option<OpenView>,
}

impl Views {
    /// Creates the views of the first rank, not open yet.
    ///
    /// # Errors
    /// When this build lacks one, or there is no terminal.
    pub(super) fn new(flags: &ViewFlags, is_first: bool) -> Result<Self> {
        let flags = if is_first {
            flags.clone()
        } else {
            ViewFlags {
                histograms: flags.histograms,
                ..ViewFlags::default()
            }
        };
        if flags.dashboard.is_some() {
            dashboard::require_page("--dashboard")?;
        }
        if flags.terminal {
            dashboard::require_terminal_view()?;
        }
        Ok(Self {
            flags,
            ..Self::default()
        })
    }

    /// Returns the interval of histograms in epochs, if they are asked for.
    pub(super) fn histograms(&self) -> Option<NonZeroUsize> {
        self.flags.histograms
    }

    /// Opens the views of a run, whose files exist.
    ///
    /// # Errors
    /// When a view cannot be opened.
    pub(super) fn open(&mut self, run: &RunDirectory) -> Result<()> {
        // Readers of the run need no lock, and must not hold the trainer's.
        let run = RunDirectory::open(run.root())?;
        if let Some(port) = self.flags.dashboard {
            self.page = Some(dashboard::open_page(run.clone(), port)?);
        }
        if self.flags.terminal {
            self.terminal = Some(dashboard::open_terminal_view(run)?);
        }
        Ok(())
    }

    /// Closes the view in the terminal, before results are printed.
    pub(super) fn close_terminal(&mut self) {
        drop(self.terminal.take());
    }
}
