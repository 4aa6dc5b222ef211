//! Diagnostics: statistics of the model, the watchdog's warnings, memory.

pub(crate) mod histogram;
pub(crate) mod memory;
pub(crate) mod model_stats;
pub(crate) mod step_history;
pub(crate) mod watchdog;
