//! User interface: progress bars, terminal output, log, error hints, views of a run.

pub(crate) mod color;
pub(crate) mod dashboard;
pub(crate) mod data_progress;
pub(crate) mod data_summary;
pub(crate) mod error_hints;
pub mod escape;
pub(crate) mod estimate;
pub(crate) mod logging;
pub(crate) mod progress;
pub mod terminal;
#[cfg(feature = "tui")]
pub(crate) mod tui;
