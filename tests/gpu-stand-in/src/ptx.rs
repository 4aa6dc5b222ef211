//! NVIDIA's PTX, by its manual: parsed, decoded and interpreted.

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
    /// Runs all blocks, several in parallel.
    ///
    /// # Errors
    /// If a thread performs an invalid operation.
    pub(crate) fn run(&self) -> Result<(), String> {
        let [x, y, z] = self.blocks;
        let number = |index: u32| [index % x, index / x % y, index / x / y];
        (0..x * y * z)
            .into_par_iter()
            .try_for_each(|index| block::run(self, number(index)))
    }
}
