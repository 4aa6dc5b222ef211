//! Broadcasts of bias, scale and batch, with backward passes that sum in parallel: a bias added to
//! every slice, one slice repeated for a batch, a learned factor on all values.
//!
//! The gradient of a broadcast tensor is a sum over all its uses. candle computes such sums on one
//! thread, with an index calculation per value; in training that took longer than everything else
//! together.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
#[cfg(feature = "cuda")]
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::autograd::custom_function::{copied, with_backward};
use crate::autograd::recorded_ops::{apply_op1, apply_op2};
use crate::cpu::floats::{Floats, are_floats, map, storage_like};
use crate::cpu::simd;
use crate::half_precision::{is_narrow, widened};
use crate::{cpu, cuda};

/// Adds `bias`, which has the shape of the last dimensions of `x`, to every slice of `x`.
///
/// # Errors
/// When `bias` is empty or the shape of `x` does not end in that of `bias`.
pub fn add_bias(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    if bias.elem_count() == 0 || !x.dims().ends_with(bias.dims()) {
        bail!(
            "add-bias: expected a bias of the last dimensions of {:?}, found {:?}",
            x.dims(),
            bias.dims()
        );
    }
    let on_gpu = cuda::has_kernels(x) && x.dtype() == bias.dtype();
    if on_gpu || are_floats([x, bias]) {
        apply_op2(&x.contiguous()?, &bias.contiguous()?, AddBias)
    } else {
        add_bias_composed(x, bias)
    }
}

/// Computes [`add_bias`] by candle's operation: the fallback for devices without a kernel, and the
/// reference in tests.
pub fn add_bias_composed(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    if is_narrow(x) {
        // The gradient of the bias is a sum.
        return widened([x, bias], |[x, bias]| add_bias_composed(x, bias));
    }
    x.broadcast_add(bias)
}

/// Repeats `x` for a batch: `[1, S] -> [batch, S]`. Returns a tensor with that batch size
/// unchanged.
///
/// # Errors
/// When the first dimension of `x` is neither 1 nor `batch`.
pub fn expand_batch(x: &Tensor, batch: usize) -> Result<Tensor> {
    match x.dims() {
        [first, ..] if *first == batch => Ok(x.clone()),
        [1, ..] if are_floats([x]) || cuda::has_kernels(x) => {
            apply_op1(&x.contiguous()?, ExpandBatch { batch })
        }
        [1, ..] => expand_batch_composed(x, batch),
        dims => bail!("expand-batch: expected a first dimension of 1 or {batch}, found {dims:?}"),
    }
}

/// Computes [`expand_batch`] by candle's operations: the fallback for devices without a kernel, and
/// the reference in tests.
pub fn expand_batch_composed(x: &Tensor, batch: usize) -> Result<Tensor> {
    if is_narrow(x) {
        return widened([x], |[x]| expand_batch_composed(x, batch));
    }
    let shape = [&[batch], &x.dims()[1..]].concat();
    x.broadcast_as(shape)?.contiguous()
}

/// Multiplies `x` by a learned `factor`, a scalar tensor.
///
/// # Errors
/// When `factor` is no scalar.
pub fn multiply_scalar(x: &Tensor, factor: &Tensor) -> Result<Tensor> {
    if factor.rank() != 0 {
        bail!(
            "multiply-scalar: expected a scalar, found shape {:?}",
            factor.dims()
        );
    }
    if cpu::has_kernels(x) && cpu::has_kernels(factor) {
        apply_op2(&x.contiguous()?, factor, MultiplyScalar)
    } else if cuda::has_kernels(x) {
        scaled(x, factor)
    } else {
        multiply_scalar_composed(x, factor)
    }
}

/// Multiplies by candle's operations in `f32`, with a custom backward pass.
fn scaled(x: &Tensor, factor: &Tensor) -> Result<Tensor> {
    let (values, by, dtype) = (x.detach(), factor.to_dtype(DType::F32)?.detach(), x.dtype());
    let product = values.to_dtype(DType::F32)?.broadcast_mul(&by)?;
    let product = copied(&product.to_dtype(dtype)?)?;
    with_backward([x, factor, factor], product, move |grad| {
        let grad = grad.to_dtype(DType::F32)?;
        let of_factor = (&grad * values.to_dtype(DType::F32)?)?.sum_all()?;
        Ok([
            Some(grad.broadcast_mul(&by)?.to_dtype(dtype)?),
            Some(of_factor.to_dtype(dtype)?),
            None,
        ])
    })
}

/// Computes [`multiply_scalar`] by candle's operation: the fallback for devices without a kernel,
/// and the reference in tests.
pub fn multiply_scalar_composed(x: &Tensor, factor: &Tensor) -> Result<Tensor> {
    if is_narrow(x) {
        return widened([x, factor], |[x, factor]| {
            multiply_scalar_composed(x, factor)
        });
    }
    x.broadcast_mul(factor)
}

struct AddBias;

impl CustomOp2 for AddBias {
    fn name(&self) -> &'static str {
        "add-bias"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = Floats::of(self.name(), x, x_layout)?;
        let bias = Floats::of(self.name(), bias, bias_layout)?;
        let mut buffer = Vec::new();
        let bias = bias.wide(0..bias.len(), &mut buffer);
        let width = bias_layout.dims().last().copied().unwrap_or(1);
        let output = map([x], width, |first, [x], output| {
            output.copy_from_slice(x);
            for (row, output) in output.chunks_mut(width).enumerate() {
                let start = (first + row * width) % bias.len();
                simd::add_to(output, &bias[start..start + width]);
            }
        });
        Ok((output, x_layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let width = cuda::Number::Whole(bias_layout.shape().elem_count() as u64);
        cuda::map("add_bias", [(x, x_layout), (bias, bias_layout)], &[width])
    }

    fn bwd(
        &self,
        _x: &Tensor,
        bias: &Tensor,
        _output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let sums = grad.apply_op2_no_bwd(bias, &SumSlices)?;
        Ok((Some(grad), Some(sums)))
    }
}

/// The operation `(dy, bias) -> dbias`, of the shape of `bias`.
pub(crate) struct SumSlices;

impl CustomOp2 for SumSlices {
    fn name(&self) -> &'static str {
        "sum-slices"
    }

    fn cpu_fwd(
        &self,
        grad: &CpuStorage,
        grad_layout: &Layout,
        _bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let grad = Floats::of(self.name(), grad, grad_layout)?;
        let width = bias_layout.shape().elem_count();
        let task = cpu::rows_per_task(width) * width;
        let partials: Vec<Vec<f32>> = (0..grad.len().div_ceil(task))
            .into_par_iter()
            .map(|number| {
                let rows = number * task..((number + 1) * task).min(grad.len());
                let (mut sum, mut buffer) = (vec![0f32; width], Vec::new());
                simd::add_rows_to(&mut sum, grad.wide(rows, &mut buffer));
                sum
            })
            .collect();
        // Summed in the order of the rows, whichever thread computed which.
        let mut sum = vec![0f32; width];
        for partial in &partials {
            simd::add_to(&mut sum, partial);
        }
        Ok((storage_like(grad, sum), bias_layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        grad: &CudaStorage,
        grad_layout: &Layout,
        _bias: &CudaStorage,
        bias_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let shape = bias_layout.shape();
        let (width, dtype) = (shape.elem_count(), grad.dtype());
        let sums = cuda::reduce::of_storage((grad, grad_layout), width, dtype)?;
        Ok((sums, shape.clone()))
    }
}

struct ExpandBatch {
    batch: usize,
}

impl CustomOp1 for ExpandBatch {
    fn name(&self) -> &'static str {
        "expand-batch"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let shape = [&[self.batch], &layout.dims()[1..]].concat();
        let repeated = match Floats::of(self.name(), x, layout)? {
            Floats::F32(x) => CpuStorage::F32(x.repeat(self.batch)),
            Floats::Bf16(x) => CpuStorage::BF16(x.repeat(self.batch)),
        };
        Ok((repeated, Shape::from(shape)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let shape = Shape::from([&[self.batch], &layout.dims()[1..]].concat());
        let count = cuda::Number::Whole(shape.elem_count() as u64);
        let repeated = cuda::map_to("repeat", [(x, layout)], &shape, &[count])?;
        Ok((repeated, shape))
    }

    fn bwd(&self, x: &Tensor, _output: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        grad.contiguous()?.apply_op2_no_bwd(x, &SumSlices).map(Some)
    }
}

struct MultiplyScalar;

impl CustomOp2 for MultiplyScalar {
    fn name(&self) -> &'static str {
        "multiply-scalar"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        factor: &CpuStorage,
        factor_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = cpu::values(self.name(), x, x_layout)?;
        let factor = cpu::values(self.name(), factor, factor_layout)?[0];
        let product = x
            .par_iter()
            .with_min_len(cpu::rows_per_task(1))
            .map(|x| x * factor)
            .collect();
        Ok((CpuStorage::F32(product), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        factor: &Tensor,
        _output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let dx = grad.apply_op2_no_bwd(factor, &Self)?;
        let dfactor = grad.apply_op2_no_bwd(x, &Dot)?;
        Ok((Some(dx), Some(dfactor)))
    }
}

/// The operation `(dy, x) -> sum(dy * x)`, a scalar.
struct Dot;

impl CustomOp2 for Dot {
    fn name(&self) -> &'static str {
        "dot"
    }

    fn cpu_fwd(
        &self,
        grad: &CpuStorage,
        grad_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let grad = cpu::values(self.name(), grad, grad_layout)?;
        let x = cpu::values(self.name(), x, x_layout)?;
        let task = cpu::rows_per_task(1);
        let partials: Vec<f32> = grad
            .par_chunks(task)
            .zip(x.par_chunks(task))
            .map(|(grad, x)| grad.iter().zip(x).map(|(g, x)| g * x).sum())
            .collect();
        Ok((
            CpuStorage::F32(vec![partials.iter().sum()]),
            Shape::from(()),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn mismatched_bias_dimensions_are_rejected() {
        let x = Tensor::zeros((2, 3, 4), DType::F32, &Device::Cpu).unwrap();
        let bias = Tensor::zeros((3, 1), DType::F32, &Device::Cpu).unwrap();
        let error = add_bias(&x, &bias).unwrap_err().to_string();
        assert!(
            error.contains("last dimensions of [2, 3, 4], found [3, 1]"),
            "{error}"
        );
    }
}
