//! The linear layer on CUDA: a matrix product, then one kernel for bias and GELU.

use std::sync::{Mutex, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::op::BackpropOp;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp3, Layout, Result, Shape, Storage, Tensor, bail,
};

use crate::autograd::recorded_ops::apply_op3;
use crate::cuda::profiler::events::timed;
use crate::cuda::{Number, column_sums, computed, map};
use crate::nn::linear::with_width;
use crate::{Transpose, batched_matmul};

/// Computes `gelu(x W^T + b)`, or without GELU, for contiguous tensors of one type that fit
/// together.
///
/// # Errors
/// When the kernels do not compile.
pub(crate) fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor, gelu: bool) -> Result<Tensor> {
    let product = Mutex::new(None);
    apply_op3(x, weight, bias, Linear { gelu, product })
}

struct Linear {
    gelu: bool,
    /// `x W^T`, `[rows, outputs]`, for the backward pass of GELU.
    product: Mutex<Option<Tensor>>,
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        _x: &CpuStorage,
        _x_layout: &Layout,
        _weight: &CpuStorage,
        _weight_layout: &Layout,
        _bias: &CpuStorage,
        _bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        bail!("{}: expected tensors on a GPU", self.name())
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (outputs, inputs) = weight_layout.shape().dims2()?;
        let rows = x_layout.shape().elem_count() / inputs;
        let x_rows = Layout::contiguous_with_offset((rows, inputs), x_layout.start_offset());
        let sizes = (1, rows, outputs, inputs);
        let columns = weight_layout.transpose(0, 1)?;
        let name = || format!("product {rows}x{inputs}x{outputs}");
        let product = timed(x.device(), name, || {
            x.matmul(weight, sizes, &x_rows, &columns)
        })?;
        let product_layout = Layout::contiguous((rows, outputs));
        let kernel = if self.gelu { "bias_gelu" } else { "add_bias" };
        let operands = [(&product, &product_layout), (bias, bias_layout)];
        let (output, _) = map(kernel, operands, &[Number::Whole(outputs as u64)])?;
        if self.gelu {
            let product = Storage::Cuda(product);
            let product = Tensor::from_storage(product, (rows, outputs), BackpropOp::none(), false);
            *self.product.lock().unwrap_or_else(PoisonError::into_inner) = Some(product);
        }
        Ok((output, with_width(x_layout.dims(), outputs)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (outputs, inputs) = weight.dims2()?;
        let mut grad = grad.contiguous()?.reshape(((), outputs))?; // [rows, outputs]
        let product = self.product.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(product) = &*product {
            let numbers = [Number::Whole(outputs as u64)];
            grad = computed([product, bias, &grad], |operands| {
                map("bias_gelu_backward", operands, &numbers)
            })?;
        }
        let one = |x: &Tensor, columns: usize| x.detach().reshape((1, (), columns));
        let (x_rows, weight) = (one(x, inputs)?, one(weight, inputs)?);
        let grad_rows = one(&grad, outputs)?;
        let dx = batched_matmul(&grad_rows, &weight, Transpose::Neither)?.reshape(x.shape())?;
        let dweight = batched_matmul(&grad_rows, &x_rows, Transpose::Left)?.squeeze(0)?;
        let dbias = column_sums(&grad, bias.dtype())?;
        Ok((Some(dx), Some(dweight), Some(dbias)))
    }
}
