//! Every number of Keras's that we have, against ours: `fixtures/golden`, and the directory that `PERCEIVER_GOLDEN_DIR`
//! names, which has the same file names and other numbers.

mod golden;
mod model;
mod preprocessing;
mod training;
