//! Column sums of a matrix on CUDA, in `f32`: bias gradients.

use candle_core::{CudaStorage, DType, Layout, Result, Shape, Tensor};

use super::{Number, Operand, computed, launch};

/// Computes the column sums of a contiguous tensor, `[width]`, in the type `dtype`.
///
/// # Errors
/// When the kernels do not compile.
pub(crate) fn column_sums(x: &Tensor, dtype: DType) -> Result<Tensor> {
    let width = launch::width(x.shape());
    computed([x], |[x]| {
        Ok((of_storage(x, width, dtype)?, Shape::from(width)))
    })
}

/// Computes the column sums of rows of `width` values, whatever the dimensions.
///
/// # Errors
/// When the kernels do not compile.
pub(crate) fn of_storage(x: Operand, width: usize, dtype: DType) -> Result<CudaStorage> {
    const WARPS: usize = 1 << 12;
    const ROWS_OF_A_WARP: usize = 16;
    let rows = x.1.shape().elem_count() / width.max(1);
    let groups = width.div_ceil(launch::WARP as usize);
    let most = (WARPS / groups.max(1)).clamp(1, rows.div_ceil(ROWS_OF_A_WARP).max(1));
    let sums = |x: Operand, chunks: usize, dtype: DType| {
        let kernel = match dtype {
            DType::BF16 => "column_sums_to_bf16",
            _ => "column_sums",
        };
        let numbers = [width, chunks].map(|number| Number::Whole(number as u64));
        let warps = launch::warps(groups * chunks);
        launch::launch(kernel, [x], Some((dtype, width * chunks)), warps, &numbers)
    };
    if most == 1 {
        return sums(x, 1, dtype);
    }
    let partial = sums(x, most, DType::F32)?;
    sums((&partial, &Layout::contiguous((most, width))), 1, dtype)
}
