//! Layer norm's backward pass: the gradient of `x` by one kernel, sums for those of `gamma` and `beta` by another.

use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail,
};

use super::{Number, column_sums, map_rows, sums_of_rows};

/// Those of `x`, `gamma` and `beta`.
type Gradients = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

/// The gradients, all tensors contiguous and of one type.
///
/// # Errors
/// When the kernels do not compile.
pub(crate) fn gradients(
    x: &Tensor,
    gamma: &Tensor,
    grad: &Tensor,
    epsilon: f32,
) -> Result<Gradients> {
    let dx = x.apply_op3_no_bwd(gamma, grad, &InputGradient { epsilon })?;
    let sums = x.apply_op2_no_bwd(grad, &WeightSums { epsilon })?; // f32 [warps, 2, width]
    let sums = column_sums(&sums.flatten_from(1)?)?.to_dtype(gamma.dtype())?;
    let width = gamma.elem_count();
    let of = |place: usize| sums.narrow(0, place * width, width).map(Some);
    Ok((Some(dx), of(0)?, of(1)?))
}

/// The width, which the layout of a row or of rows has, and epsilon.
pub(crate) fn numbers(layout: &Layout, epsilon: f32) -> [Number; 2] {
    let width = layout.dims().last().copied().unwrap_or(1);
    [Number::Whole(width as u64), Number::Real(epsilon)]
}

struct InputGradient {
    epsilon: f32,
}

impl CustomOp3 for InputGradient {
    fn name(&self) -> &'static str {
        "layer-norm-input-gradient"
    }

    fn cpu_fwd(
        &self,
        _x: &CpuStorage,
        _x_layout: &Layout,
        _gamma: &CpuStorage,
        _gamma_layout: &Layout,
        _grad: &CpuStorage,
        _grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        bail!("{}: expected tensors on a GPU", self.name())
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        gamma: &CudaStorage,
        gamma_layout: &Layout,
        grad: &CudaStorage,
        grad_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let inputs = [(x, x_layout), (gamma, gamma_layout), (grad, grad_layout)];
        map_rows(
            "layer_norm_backward",
            inputs,
            &numbers(x_layout, self.epsilon),
        )
    }
}

struct WeightSums {
    epsilon: f32,
}

impl CustomOp2 for WeightSums {
    fn name(&self) -> &'static str {
        "layer-norm-weight-sums"
    }

    fn cpu_fwd(
        &self,
        _x: &CpuStorage,
        _x_layout: &Layout,
        _grad: &CpuStorage,
        _grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        bail!("{}: expected tensors on a GPU", self.name())
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        grad: &CudaStorage,
        grad_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let inputs = [(x, x_layout), (grad, grad_layout)];
        let numbers = numbers(x_layout, self.epsilon);
        sums_of_rows("layer_norm_weights", inputs, 2, &numbers)
    }
}
