//! The subcommands, one file each.

pub(crate) mod attention;
pub(crate) mod compare;
pub(crate) mod completions;
pub(crate) mod embeddings;
pub(crate) mod evaluate;
#[cfg(feature = "export")]
pub(crate) mod export;
pub(crate) mod import_keras;
pub(crate) mod man;
pub(crate) mod predict;
#[cfg(feature = "hub")]
pub(crate) mod push;
pub(crate) mod report;
pub(crate) mod runs;
#[cfg(feature = "serve")]
pub(crate) mod serve;
pub(crate) mod shard;
pub(crate) mod summary;
pub(crate) mod train;
pub(crate) mod verify;
