//! The process environment of a command: variables, signals, MPI, the Hub, kernels.

pub(crate) mod build_features;
#[cfg(feature = "hub")]
pub(crate) mod hub;
pub(crate) mod kernels;
pub(crate) mod mpi_job;
pub mod process_env;
pub(crate) mod signals;
