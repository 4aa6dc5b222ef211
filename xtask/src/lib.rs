//! Chores of the workspace, behind `cargo xtask`.
//!
//! - [`fetch`]: brings a data set into `data/`, whole and checked, or not at all.
//! - [`pictures`]: writes pictures of a data set as PNG files.
//! - [`goldens`]: regenerates the numbers that the parity tests compare with, by Keras.
//! - [`plot`]: draws curves of training.
//! - [`build_cost`]: counts and times what a first build compiles.
//! - [`mod@bench`]: measures how fast the model trains, predicts and starts, on request beside its peers.

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
pub mod observer;
pub mod pictures;
pub mod plot;
mod python;
pub mod spec;
pub mod unpack;
pub mod verify;
