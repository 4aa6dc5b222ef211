//! Which instructions multiply bf16 matrices on this machine.

use std::fmt;
use std::sync::OnceLock;

use candle_core::{DType, Tensor};

/// The instructions for products of bf16 matrices. A value exists only where they can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bf16Kernel(pub(super) Instructions);

/// Instruction sets, the fastest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instructions {
    #[cfg(target_arch = "x86_64")]
    Amx,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    Portable,
}

impl Bf16Kernel {
    /// Plain Rust, for comparison: it runs everywhere, and is slower than products in `f32`.
    pub const PORTABLE: Self = Self(Instructions::Portable);

    /// Returns the fastest kernel of this machine, or `None` if it has no instructions for bf16.
    ///
    /// ```
    /// use perceiver_ops::Bf16Kernel;
    ///
    /// let kernels = Bf16Kernel::all();
    /// assert_eq!(kernels.last(), Some(&Bf16Kernel::PORTABLE));
    /// assert_eq!(Bf16Kernel::fastest().is_some(), kernels.len() > 1);
    /// ```
    pub fn fastest() -> Option<Self> {
        static FASTEST: OnceLock<Option<Bf16Kernel>> = OnceLock::new();
        *FASTEST.get_or_init(|| {
            let first = Self::all().first().copied();
            first.filter(|kernel| *kernel != Self::PORTABLE)
        })
    }

    /// Returns the fastest kernel for tensors that are all bf16 and on the CPU.
    pub(crate) fn of<const N: usize>(tensors: [&Tensor; N]) -> Option<Self> {
        let are_bf16 = tensors
            .into_iter()
            .all(|tensor| tensor.device().is_cpu() && tensor.dtype() == DType::BF16);
        Self::fastest().filter(|_| are_bf16)
    }

    /// Returns all kernels of this machine, the fastest first.
    pub fn all() -> Vec<Self> {
        let mut kernels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if has_avx512_bf16() {
                if super::amx::is_available() {
                    kernels.push(Self(Instructions::Amx));
                }
                kernels.push(Self(Instructions::Avx512));
            }
        }
        kernels.push(Self::PORTABLE);
        kernels
    }

    /// Returns the kernel for products of so many rows: AMX multiplies 16 at least.
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    pub(super) fn for_rows(self, rows: usize) -> Self {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Instructions::Amx if rows < super::amx::FEWEST_ROWS => Self(Instructions::Avx512),
            _ => self,
        }
    }

    /// Returns the number of rows of a tile.
    pub(super) const fn rows(self) -> usize {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Instructions::Amx => super::amx::ROWS,
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => super::avx512::ROWS,
            Instructions::Portable => super::portable::ROWS,
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx512_bf16() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bf16")
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
}

impl fmt::Display for Bf16Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self.0 {
            #[cfg(target_arch = "x86_64")]
            Instructions::Amx => "AMX",
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => "AVX512-BF16",
            Instructions::Portable => "portable",
        })
    }
}
