//! Compiles and launches CUDA kernels.

use std::sync::OnceLock;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{
    CudaView, DeviceRepr, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use candle_core::cuda_backend::{CudaDType, WrapErr};
use candle_core::{CudaStorage, DType, Layout, Result, Shape, bail};
use half::bf16;

use super::Operand;
use crate::cuda::profiler::events::timed;

/// The CUDA source of the kernels.
const SOURCE: &str = include_str!("kernels.cu");

/// A scalar argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Number {
    /// `u64`
    Whole(u64),
    /// `u32`
    Short(u32),
    /// `float`
    Real(f32),
}

/// Applies an elementwise kernel to contiguous tensors of one shape and type.
///
/// # Errors
/// When a tensor differs, or the kernels do not compile.
pub(crate) fn map<const N: usize>(
    kernel: &str,
    inputs: [Operand; N],
    numbers: &[Number],
) -> Result<(CudaStorage, Shape)> {
    let shape = inputs[0].1.shape();
    let len = shape.elem_count();
    launch(kernel, inputs, None, all(len), numbers).map(|output| (output, shape.clone()))
}

/// Applies a kernel with one warp per row, the last dimension; tensors of a single row are allowed
/// beside those of rows.
pub(crate) fn map_rows<const N: usize>(
    kernel: &str,
    inputs: [Operand; N],
    numbers: &[Number],
) -> Result<(CudaStorage, Shape)> {
    map_rows_to(inputs[0].0.dtype(), kernel, inputs, numbers)
}

/// Applies [`map_rows`] with an output, and a kernel, of another type than the first input.
pub(crate) fn map_rows_to<const N: usize>(
    dtype: DType,
    kernel: &str,
    inputs: [Operand; N],
    numbers: &[Number],
) -> Result<(CudaStorage, Shape)> {
    let shape = inputs[0].1.shape();
    let rows = shape.elem_count() / width(shape);
    let name = named(kernel, dtype)?;
    let output = Some((dtype, shape.elem_count()));
    let output = start(&name, inputs, output, warps(rows), numbers);
    output.map(|output| (output, shape.clone()))
}

/// Computes `sums` row sums per warp, where each warp takes some of the rows: `f32`
/// `[warps, sums, width]`.
pub(crate) fn sums_of_rows<const N: usize>(
    kernel: &str,
    inputs: [Operand; N],
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

/// Applies a kernel from contiguous tensors to another shape, per value of the new one.
pub(crate) fn map_to<const N: usize>(
    kernel: &str,
    inputs: [Operand; N],
    shape: &Shape,
    numbers: &[Number],
) -> Result<CudaStorage> {
    let count = shape.elem_count();
    let output = Some((inputs[0].0.dtype(), count));
    launch(kernel, inputs, output, all(count), numbers)
}

/// Number of threads in a warp.
pub(crate) const WARP: u32 = 32;

/// Returns the last dimension.
pub(crate) fn width(shape: &Shape) -> usize {
    shape.dims().last().copied().unwrap_or(1).max(1)
}

/// Returns a launch configuration with a warp per row, up to a number that fills a GPU.
pub(crate) fn warps(rows: usize) -> LaunchConfig {
    const A_BLOCK: u32 = 4;
    const MOST: usize = 1 << 12;
    let blocks = rows.clamp(1, MOST).div_ceil(A_BLOCK as usize);
    LaunchConfig {
        grid_dim: (blocks as u32, 1, 1),
        block_dim: (A_BLOCK * WARP, 1, 1),
        shared_mem_bytes: 0,
    }
}

/// Returns the name of a kernel for values of a type.
fn named(kernel: &str, dtype: DType) -> Result<String> {
    match dtype {
        DType::F32 => Ok(format!("{kernel}_f32")),
        DType::BF16 => Ok(format!("{kernel}_bf16")),
        other => bail!("{kernel}: expected f32 or bf16 values, found {other:?}"),
    }
}

/// Launches a kernel for values of the type and number of the first input; the output has the same
/// type and length unless specified.
pub(crate) fn launch<const N: usize>(
    kernel: &str,
    inputs: [Operand; N],
    output: Option<(DType, usize)>,
    threads: LaunchConfig,
    numbers: &[Number],
) -> Result<CudaStorage> {
    let name = named(kernel, inputs[0].0.dtype())?;
    start(&name, inputs, output, threads, numbers)
}

fn start<const N: usize>(
    name: &str,
    inputs: [Operand; N],
    output: Option<(DType, usize)>,
    threads: LaunchConfig,
    numbers: &[Number],
) -> Result<CudaStorage> {
    let len = inputs[0].1.shape().elem_count();
    let (dtype, count) = output.unwrap_or((inputs[0].0.dtype(), len));
    match dtype {
        DType::BF16 => typed::<bf16, N>(name, inputs, count, threads, numbers),
        _ => typed::<f32, N>(name, inputs, count, threads, numbers),
    }
}

/// The values of an input.
enum View<'a> {
    F32(CudaView<'a, f32>),
    Bf16(CudaView<'a, bf16>),
}

impl<'a> View<'a> {
    fn new(name: &str, storage: &'a CudaStorage, layout: &Layout) -> Result<Self> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("{name}: expected contiguous values, found {layout:?}");
        };
        Ok(match storage.dtype() {
            DType::BF16 => Self::Bf16(storage.as_cuda_slice::<bf16>()?.slice(start..end)),
            _ => Self::F32(storage.as_cuda_slice::<f32>()?.slice(start..end)),
        })
    }
}

fn typed<U: CudaDType + DeviceRepr, const N: usize>(
    name: &str,
    inputs: [Operand; N],
    outputs: usize,
    threads: LaunchConfig,
    numbers: &[Number],
) -> Result<CudaStorage> {
    let (first, layout) = inputs[0];
    let (device, len) = (first.device(), layout.shape().elem_count());
    let views = inputs.map(|(storage, layout)| View::new(name, storage, layout));
    let views = views.into_iter().collect::<Result<Vec<_>>>()?;
    let function = device.get_or_load_custom_func(name, MODULE, compiled()?)?;
    // SAFETY: any bits are a value of these types, and the kernel writes all of them.
    #[allow(unsafe_code)]
    let output = unsafe { device.alloc::<U>(outputs)? };
    let count = len as u64;
    let mut arguments = function.builder();
    for view in &views {
        match view {
            View::F32(view) => arguments.arg(view),
            View::Bf16(view) => arguments.arg(view),
        };
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
        || name.to_owned(),
        || {
            // SAFETY: the arguments are those that `kernels.cu` declares; the operations have
            // checked their sizes and types.
            #[allow(unsafe_code)]
            unsafe { arguments.launch(threads) }.w()?;
            Ok(())
        },
    )?;
    Ok(CudaStorage::wrap_cuda_slice(output, device.clone()))
}

/// Returns a launch configuration for `len` values, of which each thread takes several in turn.
pub(crate) fn all(len: usize) -> LaunchConfig {
    const MOST: usize = 1 << 20;
    LaunchConfig::for_num_elems(len.clamp(1, MOST) as u32)
}

/// Name of the module of kernels in candle.
pub(crate) const MODULE: &str = "perceiver";

/// Returns the compiled kernels.
pub(crate) fn compiled() -> Result<&'static str> {
    static PTX: OnceLock<std::result::Result<String, String>> = OnceLock::new();
    let compile = || {
        let options = CompileOptions {
            fmad: Some(false), // the same bits as on the CPU for products and sums
            ..CompileOptions::default()
        };
        let compiled = compile_ptx_with_opts(SOURCE, options);
        let compiled = compiled.map_err(|error| format!("{error:?}"))?;
        Ok(compiled.to_src())
    };
    match PTX.get_or_init(compile) {
        Ok(ptx) => Ok(ptx),
        Err(finding) => bail!("cannot compile the CUDA kernels: {finding}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs the compiler's library, but no GPU.
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
