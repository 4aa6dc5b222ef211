//! Command-line arguments: flags that several commands share, and their interpretation.

pub(crate) mod checkpoint;
pub(crate) mod class_check;
pub(crate) mod compute;
pub(crate) mod errors;
pub(crate) mod flip_average;
pub(crate) mod image_batches;
pub(crate) mod init_from;
pub(crate) mod inputs;
#[cfg(any(feature = "export", feature = "hub"))]
pub(crate) mod license;
pub(crate) mod named_directory;
pub(crate) mod output_format;
pub(crate) mod overrides;
pub(crate) mod recipe;
#[cfg(feature = "serve")]
pub(crate) mod size;
