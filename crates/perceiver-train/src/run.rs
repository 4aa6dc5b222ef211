//! The run directory and its files: locked, written atomically, checksummed.

pub(crate) mod atomic_file;
pub(crate) mod checksummed_file;
pub(crate) mod directory;
pub(crate) mod environment;
pub(crate) mod json_file;
pub(crate) mod lock;
pub(crate) mod shell;
