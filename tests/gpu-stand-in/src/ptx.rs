//! NVIDIA's code in its written form (PTX, by NVIDIA's manual of it): read, decoded and run.

mod arithmetic;
mod block;
mod decode;
mod kernel;
mod module;
mod names;
mod number;
#[cfg(test)]
mod tests;
mod thread;

use rayon::prelude::*;

pub(crate) use block::Launch;
pub(crate) use decode::decode;
pub(crate) use kernel::Kernel;
pub(crate) use module::{Source, kernels};
pub(crate) use number::Type;

impl Launch<'_> {
    /// Runs all blocks, several at a time.
    ///
    /// # Errors
    /// What one of their threads did that it must not do.
    pub(crate) fn run(&self) -> Result<(), String> {
        let [x, y, z] = self.blocks;
        let number = |index: u32| [index % x, index / x % y, index / x / y];
        (0..x * y * z)
            .into_par_iter()
            .try_for_each(|index| block::run(self, number(index)))
    }
}
