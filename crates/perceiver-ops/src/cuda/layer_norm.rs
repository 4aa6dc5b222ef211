//! The backward pass of layer norm on CUDA: the gradient of `x` by one kernel, sums for those of
//! `gamma` and `beta` by another.

use candle_core::{Layout, Result, Tensor};

use super::{Number, column_sums, computed, map_rows, sums_of_rows};

/// The gradients of `x`, `gamma` and `beta`.
type Gradients = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

/// Computes the gradients; all tensors are contiguous and of one type.
///
/// # Errors
/// When the kernels do not compile.
pub(crate) fn gradients(
    x: &Tensor,
    gamma: &Tensor,
    grad: &Tensor,
    epsilon: f32,
) -> Result<Gradients> {
    let numbers = numbers(x.layout(), epsilon);
    let dx = computed([x, gamma, grad], |operands| {
        map_rows("layer_norm_backward", operands, &numbers)
    })?;
    let sums = computed([x, grad], |operands| {
        sums_of_rows("layer_norm_weights", operands, 2, &numbers)
    })?; // f32 [warps, 2, width]
    let sums = column_sums(&sums.flatten_from(1)?, gamma.dtype())?;
    let width = gamma.elem_count();
    let of = |row: usize| sums.narrow(0, row * width, width).map(Some);
    Ok((Some(dx), of(0)?, of(1)?))
}

/// Returns the width, from the layout of one or more rows, and epsilon.
pub(crate) fn numbers(layout: &Layout, epsilon: f32) -> [Number; 2] {
    let width = layout.dims().last().copied().unwrap_or(1);
    [Number::Whole(width as u64), Number::Real(epsilon)]
}
