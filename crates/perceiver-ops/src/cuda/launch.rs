//! Compiles the kernels and starts them.

use std::sync::OnceLock;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{DeviceRepr, LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use candle_core::cuda_backend::{CudaDType, WrapErr};
use candle_core::{CudaStorage, DType, Layout, Result, Shape, bail};
use half::bf16;

/// What the kernels are compiled from.
const SOURCE: &str = include_str!("kernels.cu");

/// A number that a kernel is given.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Number {
    /// `u64`
    Whole(u64),
    /// `u32`
    Short(u32),
    /// `float`
    Real(f32),
}

/// A type of values that there are kernels for.
trait Value: CudaDType + DeviceRepr {
    /// What the names of its kernels end in.
    const SUFFIX: &'static str;
}

impl Value for f32 {
    const SUFFIX: &'static str = "f32";
}

impl Value for bf16 {
    const SUFFIX: &'static str = "bf16";
}

/// What a kernel makes of the values of contiguous tensors of one shape and type, value by value.
///
/// # Errors
/// When a tensor is another, or the kernels do not compile.
pub(crate) fn map<const N: usize>(
    kernel: &str,
    inputs: [(&CudaStorage, &Layout); N],
    numbers: &[Number],
) -> Result<(CudaStorage, Shape)> {
    let (first, layout) = inputs[0];
    let output = match first.dtype() {
        DType::F32 => map_values::<f32, N>(kernel, inputs, numbers),
        DType::BF16 => map_values::<bf16, N>(kernel, inputs, numbers),
        other => bail!("{kernel}: expected f32 or bf16 values, found {other:?}"),
    };
    Ok((output?, layout.shape().clone()))
}

fn map_values<T: Value, const N: usize>(
    kernel: &str,
    inputs: [(&CudaStorage, &Layout); N],
    numbers: &[Number],
) -> Result<CudaStorage> {
    let (first, layout) = inputs[0];
    let (device, len) = (first.device(), layout.shape().elem_count());
    let mut views = Vec::with_capacity(N);
    for (storage, layout) in inputs {
        match layout.contiguous_offsets() {
            Some((start, end)) if end - start == len => {
                views.push(storage.as_cuda_slice::<T>()?.slice(start..end));
            }
            _ => bail!("{kernel}: expected contiguous values of one shape, found {layout:?}"),
        }
    }
    let name = format!("{kernel}_{}", T::SUFFIX);
    let function = device.get_or_load_custom_func(&name, MODULE, compiled()?)?;
    // SAFETY: any bits are a value of these types, and the kernel writes all of them.
    #[allow(unsafe_code)]
    let output = unsafe { device.alloc::<T>(len)? };
    let count = len as u64;
    let mut arguments = function.builder();
    for view in &views {
        arguments.arg(view);
    }
    arguments.arg(&output).arg(&count);
    for number in numbers {
        match number {
            Number::Whole(number) => arguments.arg(number),
            Number::Short(number) => arguments.arg(number),
            Number::Real(number) => arguments.arg(number),
        };
    }
    // SAFETY: the arguments are those that `kernels.cu` declares, and it stays within `len` values of each.
    #[allow(unsafe_code)]
    unsafe { arguments.launch(all(len)) }.w()?;
    drop(arguments);
    Ok(CudaStorage::wrap_cuda_slice(output, device.clone()))
}

/// Threads for so many values, each of which takes some one after another.
pub(super) fn all(len: usize) -> LaunchConfig {
    const MOST: usize = 1 << 20;
    LaunchConfig::for_num_elems(len.clamp(1, MOST) as u32)
}

/// What candle knows the kernels by.
pub(super) const MODULE: &str = "perceiver";

/// The kernels, compiled.
pub(super) fn compiled() -> Result<&'static str> {
    static PTX: OnceLock<std::result::Result<String, String>> = OnceLock::new();
    let compile = || {
        let options = CompileOptions {
            fmad: Some(false), // the same bits as on the CPU, where only products and sums are taken
            ..CompileOptions::default()
        };
        let compiled = compile_ptx_with_opts(SOURCE, options);
        let compiled = compiled.map_err(|error| format!("{error:?}"))?;
        Ok(compiled.to_src())
    };
    match PTX.get_or_init(compile) {
        Ok(ptx) => Ok(ptx),
        Err(finding) => bail!("the kernels for NVIDIA GPUs: expected to compile, found {finding}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs the compiler's library, and no GPU.
    #[test]
    fn the_kernels_compile_for_hopper() {
        let options = CompileOptions {
            arch: Some("sm_90"),
            ..CompileOptions::default()
        };
        let ptx = compile_ptx_with_opts(SOURCE, options).unwrap();
        assert!(!ptx.to_src().is_empty());
    }
}
