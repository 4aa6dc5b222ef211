//! User interface: progress bars, terminal output, log, error hints.

pub(crate) mod color;
pub(crate) mod data_progress;
pub(crate) mod data_summary;
pub(crate) mod error_hints;
pub mod escape;
pub(crate) mod estimate;
pub(crate) mod logging;
pub(crate) mod progress;
pub mod terminal;
