//! The bodies of the fuzz targets: one function for each reader of untrusted bytes.
//!
//! `tests/fuzz` calls them with generated inputs; `tests/fuzz_seeds.rs` with the seeds, and with
//! inputs that once failed. A body returns for every input. It returns whether something was read,
//! which is required for seeds named `ok-`.

mod checkpoint;
mod data;
mod sealed;

pub use checkpoint::{config, preprocessor, pytorch, recipe, state, weights};
pub use data::{cifar, image, parquet, tar};

/// The name of a fuzz target, and its body.
pub type Body = (&'static str, fn(&[u8]) -> bool);

/// All bodies.
pub const BODIES: [Body; 10] = [
    ("cifar", cifar),
    ("config", config),
    ("image", image),
    ("parquet", parquet),
    ("preprocessor", preprocessor),
    ("pytorch", pytorch),
    ("recipe", recipe),
    ("state", state),
    ("tar", tar),
    ("weights", weights),
];
