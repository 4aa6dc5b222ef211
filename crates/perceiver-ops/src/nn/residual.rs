//! Fused linear + bias + dropout + residual add.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use crate::autograd::recorded_ops::{apply_op3, reshape};
use crate::cuda;
use crate::nn::broadcast::{SumSlices, add_bias};
use crate::nn::dropout::{DropoutRule, passed_on, training_key};
use crate::{Mode, Transpose, add_dropout, batched_matmul, linear};

/// Computes `x + dropout(branch W^T + bias)`: [`linear`] and [`add_dropout`].
///
/// # Errors
/// Those of the two.
pub fn linear_residual(
    x: &Tensor,
    branch: &Tensor,
    [weight, bias]: [&Tensor; 2],
    rate: f64,
    mode: Mode,
) -> Result<Tensor> {
    let (outputs, inputs) = weight.dims2()?;
    let fits = branch.dims().last() == Some(&inputs) && x.dims().last() == Some(&outputs);
    let are_alike = weight.dtype() == x.dtype() && branch.dtype() == x.dtype();
    if !(cuda::has_kernels(x) && fits && are_alike) {
        return add_dropout(x, &linear(branch, weight, bias)?, rate, mode);
    }
    let rows = reshape(branch, (1, (), inputs))?;
    let weight = reshape(weight, (1, outputs, inputs))?;
    let product = batched_matmul(&rows, &weight, Transpose::Right)?;
    add_biased_dropout(x, &reshape(&product, x.shape())?, bias, rate, mode)
}

/// Computes `x + dropout(branch + bias)`.
///
/// # Errors
/// Those of [`add_bias`] and [`add_dropout`].
pub(crate) fn add_biased_dropout(
    x: &Tensor,
    branch: &Tensor,
    bias: &Tensor,
    rate: f64,
    mode: Mode,
) -> Result<Tensor> {
    let fits = x.dims() == branch.dims() && bias.dims() == &x.dims()[x.rank().saturating_sub(1)..];
    let are_alike = branch.dtype() == x.dtype() && bias.dtype() == x.dtype();
    if !(cuda::has_kernels(x) && fits && are_alike) {
        return add_dropout(x, &add_bias(branch, bias)?, rate, mode);
    }
    let rule = training_key(branch, rate, mode)?.map(|key| DropoutRule::new(key, rate));
    let (branch, bias) = (branch.contiguous()?, bias.contiguous()?);
    apply_op3(&x.contiguous()?, &branch, &bias, AddBiasedDropout { rule })
}

struct AddBiasedDropout {
    rule: Option<DropoutRule>,
}

impl CustomOp3 for AddBiasedDropout {
    fn name(&self) -> &'static str {
        "add-biased-dropout"
    }

    fn cpu_fwd(
        &self,
        _x: &CpuStorage,
        _x_layout: &Layout,
        _branch: &CpuStorage,
        _branch_layout: &Layout,
        _bias: &CpuStorage,
        _bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        bail!("{}: expected tensors on a GPU", self.name())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        branch: &CudaStorage,
        branch_layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let inputs = [(x, x_layout), (branch, branch_layout), (bias, bias_layout)];
        let width = cuda::Number::Whole(bias_layout.shape().elem_count() as u64);
        let [key, threshold, scale] = DropoutRule::or_none_for_gpu(self.rule);
        cuda::map(
            "add_biased_dropout",
            inputs,
            &[width, key, threshold, scale],
        )
    }

    fn bwd(
        &self,
        _x: &Tensor,
        _branch: &Tensor,
        bias: &Tensor,
        _output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (x, branch) = passed_on(grad, self.rule)?;
        let bias = branch.apply_op2_no_bwd(bias, &SumSlices)?;
        Ok((Some(x), Some(branch), Some(bias)))
    }
}
