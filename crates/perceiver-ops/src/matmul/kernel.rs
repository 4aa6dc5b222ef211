//! Which instructions multiply packed matrices on this machine.

use std::fmt;
use std::sync::OnceLock;

use super::format::Format;

/// The environment variable that turns on the kernel for AMX, which has not run on a CPU that has it.
#[cfg(target_arch = "x86_64")]
const AMX: &str = "PERCEIVER_AMX";

/// The instructions for products of bf16 matrices. A value exists only where they can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bf16Kernel(pub(super) TileKernel);

/// The code that computes a tile: for one instruction set and one [`Format`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TileKernel {
    /// bf16, by AMX.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// bf16, by AVX512-BF16.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// bf16, in plain Rust.
    Portable,
    /// `f32`, by AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl TileKernel {
    /// Returns the kernel for `f32`, where it is faster than the `gemm` crate: on CPUs with AVX2 and
    /// FMA, but without AVX-512, for which `gemm` has a kernel of its own.
    pub(crate) fn of_f32() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if !is_x86_feature_detected!("avx512f") {
            return Self::avx2();
        }
        None
    }

    /// Returns the kernel for AVX2 and FMA, where it can run.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn avx2() -> Option<Self> {
        let can_run = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        can_run.then_some(Self::Avx2)
    }

    /// Returns all kernels of this machine.
    #[cfg(test)]
    pub(super) fn all() -> Vec<Self> {
        let mut kernels: Vec<Self> = Bf16Kernel::all().iter().map(|kernel| kernel.0).collect();
        #[cfg(target_arch = "x86_64")]
        kernels.extend(Self::avx2());
        kernels
    }

    /// Returns how the operands are packed.
    pub(super) const fn format(self) -> Format {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Format::F32,
            _ => Format::Bf16Pairs,
        }
    }

    /// Returns the number of rows of a tile.
    pub(super) const fn rows(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx => super::amx::ROWS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => super::avx512::ROWS,
            Self::Portable => super::portable::ROWS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => super::avx2::ROWS,
        }
    }
}

impl Bf16Kernel {
    /// Plain Rust, for comparison: it runs everywhere, and is slower than products in `f32`.
    pub const PORTABLE: Self = Self(TileKernel::Portable);

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

    /// Returns all kernels of this machine, the fastest first; that for AMX only if the environment
    /// variable `PERCEIVER_AMX` is set, since it has not run yet.
    pub fn all() -> Vec<Self> {
        let mut kernels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if std::env::var_os(AMX).is_some() && super::amx::is_available() {
                kernels.push(Self(TileKernel::Amx));
            }
            if has_avx512_bf16() {
                kernels.push(Self(TileKernel::Avx512));
            }
        }
        kernels.push(Self::PORTABLE);
        kernels
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
            TileKernel::Amx => "AMX",
            #[cfg(target_arch = "x86_64")]
            TileKernel::Avx512 => "AVX512-BF16",
            _ => "portable",
        })
    }
}
