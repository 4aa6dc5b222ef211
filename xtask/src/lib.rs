//! Development tasks of the workspace, behind `cargo xtask`.
//!
//! - [`fetch`]: installs a data set in `data/`, complete and verified, or not at all.
//! - [`pictures`]: writes images of a data set as PNG files.
//! - [`goldens`]: regenerates the reference values of the parity tests with Keras.
//! - [`plot`]: plots training curves.
//! - [`mod@package`]: makes and tries the packages of a release.
//! - [`build_cost`]: counts and times what a first build compiles.
//! - [`mod@bench`]: measures training, inference and startup speed, optionally beside other
//!   frameworks.

#![warn(clippy::print_stderr, clippy::print_stdout)]

pub mod bench;
pub mod build_cost;
pub mod cargo;
pub mod download;
pub mod error;
pub mod fetch;
pub mod goldens;
#[cfg(feature = "hub")]
pub mod hub_source;
pub mod measure;
pub mod package;
pub mod pictures;
pub mod plot;
pub mod progress;
mod python;
pub mod spec;
pub mod unpack;
pub mod verify;
