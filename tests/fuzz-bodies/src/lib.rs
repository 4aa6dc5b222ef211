//! What the fuzz targets do with an input: one function for each reader of bytes that anyone may have made.
//!
//! `tests/fuzz` calls them with inputs it makes up, `tests/fuzz_seeds.rs` with the inputs it began with and those that once
//! went wrong. A body returns for every input: whether something was read, as it is of the inputs called `ok-`.

mod checkpoint;
mod data;
mod sealed;

pub use checkpoint::{config, recipe, state, weights};
pub use data::{cifar, image, parquet, tar};

/// A body, by the name of its target.
pub type Body = (&'static str, fn(&[u8]) -> bool);

/// All of them.
pub const BODIES: [Body; 8] = [
    ("cifar", cifar),
    ("config", config),
    ("image", image),
    ("parquet", parquet),
    ("recipe", recipe),
    ("state", state),
    ("tar", tar),
    ("weights", weights),
];
