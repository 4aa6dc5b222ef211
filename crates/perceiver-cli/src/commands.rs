//! The subcommands, one file each; related ones in a folder.

pub(crate) mod attention;
pub(crate) mod compare;
pub(crate) mod conversion;
pub(crate) mod embeddings;
pub(crate) mod evaluate;
pub(crate) mod predict;
#[cfg(feature = "hub")]
pub(crate) mod push;
pub(crate) mod report;
pub(crate) mod runs;
#[cfg(feature = "serve")]
pub(crate) mod serve;
pub(crate) mod shard;
pub(crate) mod shell;
pub(crate) mod summary;
pub(crate) mod train;
pub(crate) mod verify;
