//! The sums of a matrix's columns, in `f32`: the gradient of what was broadcast to its rows.

use candle_core::{CudaStorage, DType, Layout, Result, Shape, Tensor};

use super::{Number, Operand, computed, launch};

/// Those of the rows of a contiguous tensor, `f32` `[width]`.
///
/// # Errors
/// When the kernels do not compile.
pub(crate) fn column_sums(x: &Tensor) -> Result<Tensor> {
    let width = launch::width(x.shape());
    computed([x], |[x]| Ok((of_storage(x, width)?, Shape::from(width))))
}

/// The same of rows of so many values, wherever the dimensions lie.
///
/// # Errors
/// When the kernels do not compile.
pub(crate) fn of_storage(x: Operand, width: usize) -> Result<CudaStorage> {
    const WARPS: usize = 1 << 12;
    const ROWS_OF_A_WARP: usize = 16;
    let rows = x.1.shape().elem_count() / width.max(1);
    let groups = width.div_ceil(launch::WARP as usize);
    let most = (WARPS / groups.max(1)).clamp(1, rows.div_ceil(ROWS_OF_A_WARP).max(1));
    let sums = |x: Operand, chunks: usize| {
        let numbers = [width, chunks].map(|number| Number::Whole(number as u64));
        let warps = launch::warps(groups * chunks);
        launch::launch(
            "column_sums",
            [x],
            Some((DType::F32, width * chunks)),
            warps,
            &numbers,
        )
    };
    let partial = sums(x, most)?;
    if most == 1 {
        return Ok(partial);
    }
    sums((&partial, &Layout::contiguous((most, width))), 1)
}
