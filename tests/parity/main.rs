//! Compares this implementation with reference values of Keras: those in `fixtures/golden`, and
//! those in the directory of `PERCEIVER_GOLDEN_DIR`, which has the same files with other values.

mod golden;
mod model;
mod preprocessing;
mod training;
