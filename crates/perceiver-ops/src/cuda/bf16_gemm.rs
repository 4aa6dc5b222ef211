//! Matrix multiplication of bf16 inputs with f32 output on CUDA, which candle lacks.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::cublas::{result, sys};
use candle_core::cuda_backend::cudarc::driver::{DevicePtr, DevicePtrMut};
use candle_core::{CudaStorage, Layout, Result, Shape, Tensor, bail};
use half::bf16;

use super::{Operand, computed};
use crate::cuda::profiler::events::timed;

/// Multiplies `a` `[.., m, k]` by the transpose of `b` `[.., n, k]`, both contiguous and `bf16`:
/// `f32` `[.., m, n]`.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn wide_product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    computed([a, b], |[a, b]| of_operands(a, b))
}

fn of_operands((a, a_layout): Operand, (b, b_layout): Operand) -> Result<(CudaStorage, Shape)> {
    let ((batch, a_rows), (other_batch, b_rows)) = (split(a_layout), split(b_layout));
    let ([m, k], [n, other_k]) = (a_rows, b_rows);
    let (Some(a_values), Some(b_values)) =
        (a_layout.contiguous_offsets(), b_layout.contiguous_offsets())
    else {
        bail!("bf16 gemm: expected contiguous matrices");
    };
    if batch != other_batch || k != other_k {
        let (a, b) = (a_layout.dims(), b_layout.dims());
        bail!("bf16 gemm: shapes {a:?} and {b:?} do not fit");
    }
    let (device, count) = (a.device(), batch.iter().product::<usize>());
    let a = a.as_cuda_slice::<bf16>()?.slice(a_values.0..a_values.1);
    let b = b.as_cuda_slice::<bf16>()?.slice(b_values.0..b_values.1);
    // SAFETY: any bits are an `f32`, and the product writes all of them.
    #[allow(unsafe_code)]
    let mut output = unsafe { device.alloc::<f32>(count * m * n) }?;
    let name = || format!("product {count} x {m}x{k}x{n} to f32");
    let sizes = [m, k, n, count, m * k, n * k, m * n].map(i32::try_from);
    let [
        Ok(rows),
        Ok(inner),
        Ok(columns),
        Ok(batch_size),
        Ok(of_a),
        Ok(of_b),
        Ok(of_c),
    ] = sizes
    else {
        bail!("bf16 gemm: expected sizes of 31 bits, found {count} x {m}x{k}x{n}");
    };
    timed(device, name, || {
        let stream = device.cuda_stream();
        let (a, _guard_of_a) = a.device_ptr(&stream);
        let (b, _guard_of_b) = b.device_ptr(&stream);
        let (c, _guard_of_c) = output.device_ptr_mut(&stream);
        let (one, zero) = (1f32, 0f32);
        let narrow = sys::cudaDataType_t::CUDA_R_16BF;
        // cuBLAS matrices are column-major, so this computes the transpose of `b a^T`: `b` `[n, k]`
        // is `[k, n]` to it and is transposed, `a` is `[k, m]` unchanged, and the result is
        // `[n, m]`.
        // SAFETY: the sizes are those of the buffers.
        #[allow(unsafe_code)]
        unsafe {
            result::gemm_strided_batched_ex(
                *device.cublas_handle().handle(),
                sys::cublasOperation_t::CUBLAS_OP_T,
                sys::cublasOperation_t::CUBLAS_OP_N,
                columns,
                rows,
                inner,
                (&raw const one).cast(),
                b as *const _,
                narrow,
                inner,
                of_b.into(),
                a as *const _,
                narrow,
                inner,
                of_a.into(),
                (&raw const zero).cast(),
                c as *mut _,
                sys::cudaDataType_t::CUDA_R_32F,
                columns,
                of_c.into(),
                batch_size,
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT_TENSOR_OP,
            )
        }
        .w()?;
        Ok(())
    })?;
    let shape = Shape::from([batch, &[m, n]].concat());
    Ok((CudaStorage::wrap_cuda_slice(output, device.clone()), shape))
}

/// Splits dimensions into the leading ones and rows and columns.
fn split(layout: &Layout) -> (&[usize], [usize; 2]) {
    match layout.dims() {
        [batch @ .., rows, columns] => (batch, [*rows, *columns]),
        _ => (&[], [1, layout.shape().elem_count()]),
    }
}
