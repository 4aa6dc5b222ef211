//! Compiles the kernels and starts them.

use std::sync::OnceLock;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{DeviceRepr, LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use candle_core::cuda_backend::{CudaDType, WrapErr};
use candle_core::{CudaStorage, DType, Layout, Result, Shape, bail};
use half::bf16;

use super::profile::timed;

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
    let shape = inputs[0].1.shape();
    let len = shape.elem_count();
    launch(kernel, inputs, None, all(len), numbers).map(|output| (output, shape.clone()))
}

/// The same where a warp goes through a row, the last dimension, at a time; tensors of a row each may be among those of rows.
pub(crate) fn map_rows<const N: usize>(
    kernel: &str,
    inputs: [(&CudaStorage, &Layout); N],
    numbers: &[Number],
) -> Result<(CudaStorage, Shape)> {
    let shape = inputs[0].1.shape();
    let rows = shape.elem_count() / width(shape);
    let output = launch(kernel, inputs, None, warps(rows), numbers);
    output.map(|output| (output, shape.clone()))
}

/// So many sums of rows, for every warp that goes through some of the rows of tensors: `f32` `[warps, sums, width]`.
pub(crate) fn sums_of_rows<const N: usize>(
    kernel: &str,
    inputs: [(&CudaStorage, &Layout); N],
    sums: usize,
    numbers: &[Number],
) -> Result<(CudaStorage, Shape)> {
    const MOST: usize = 1 << 10;
    let width = width(inputs[0].1.shape());
    let rows = inputs[0].1.shape().elem_count() / width;
    let threads = warps(rows.min(MOST));
    let count = (threads.grid_dim.0 * threads.block_dim.0 / WARP) as usize;
    let shape = Shape::from((count, sums, width));
    let of_sums = Some((DType::F32, shape.elem_count()));
    let output = launch(kernel, inputs, of_sums, threads, numbers);
    output.map(|output| (output, shape))
}

/// What a kernel makes of contiguous tensors in another shape, value by value of the new one.
pub(crate) fn map_to<const N: usize>(
    kernel: &str,
    inputs: [(&CudaStorage, &Layout); N],
    shape: &Shape,
    numbers: &[Number],
) -> Result<CudaStorage> {
    let count = shape.elem_count();
    let output = Some((inputs[0].0.dtype(), count));
    launch(kernel, inputs, output, all(count), numbers)
}

/// The threads of a warp.
pub(super) const WARP: u32 = 32;

/// The last dimension.
pub(crate) fn width(shape: &Shape) -> usize {
    shape.dims().last().copied().unwrap_or(1).max(1)
}

/// A warp for every row, up to a number that fills a GPU.
pub(super) fn warps(rows: usize) -> LaunchConfig {
    const A_BLOCK: u32 = 4;
    const MOST: usize = 1 << 12;
    let blocks = rows.clamp(1, MOST).div_ceil(A_BLOCK as usize);
    LaunchConfig {
        grid_dim: (blocks as u32, 1, 1),
        block_dim: (A_BLOCK * WARP, 1, 1),
        shared_mem_bytes: 0,
    }
}

/// Starts a kernel of `inputs`, the first of which says how many values there are; the output is as long and of its type, unless told.
pub(super) fn launch<const N: usize>(
    kernel: &str,
    inputs: [(&CudaStorage, &Layout); N],
    output: Option<(DType, usize)>,
    threads: LaunchConfig,
    numbers: &[Number],
) -> Result<CudaStorage> {
    let input = inputs[0].0.dtype();
    let len = inputs[0].1.shape().elem_count();
    let (dtype, count) = output.unwrap_or((input, len));
    match (input, dtype) {
        (DType::F32, DType::F32) => typed::<f32, f32, N>(kernel, inputs, count, threads, numbers),
        (DType::BF16, DType::BF16) => {
            typed::<bf16, bf16, N>(kernel, inputs, count, threads, numbers)
        }
        (DType::BF16, DType::F32) => typed::<bf16, f32, N>(kernel, inputs, count, threads, numbers),
        (other, _) => bail!("{kernel}: expected f32 or bf16 values, found {other:?}"),
    }
}

fn typed<T: Value, U: Value, const N: usize>(
    kernel: &str,
    inputs: [(&CudaStorage, &Layout); N],
    outputs: usize,
    threads: LaunchConfig,
    numbers: &[Number],
) -> Result<CudaStorage> {
    let (first, layout) = inputs[0];
    let (device, len) = (first.device(), layout.shape().elem_count());
    let mut views = Vec::with_capacity(N);
    for (storage, layout) in inputs {
        match layout.contiguous_offsets() {
            Some((start, end)) => views.push(storage.as_cuda_slice::<T>()?.slice(start..end)),
            None => bail!("{kernel}: expected contiguous values, found {layout:?}"),
        }
    }
    let name = format!("{kernel}_{}", T::SUFFIX);
    let function = device.get_or_load_custom_func(&name, MODULE, compiled()?)?;
    // SAFETY: any bits are a value of these types, and the kernel writes all of them.
    #[allow(unsafe_code)]
    let output = unsafe { device.alloc::<U>(outputs)? };
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
    timed(
        device,
        || name.clone(),
        || {
            // SAFETY: the arguments are those that `kernels.cu` declares, whose sizes the operations have checked.
            #[allow(unsafe_code)]
            unsafe { arguments.launch(threads) }.w()?;
            Ok(())
        },
    )?;
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
