//! A matrix product in `f32` by the `gemm` crate, to compare products in bf16 with.

/// Multiplies row-major matrices on this thread.
#[allow(unsafe_code)]
pub(crate) fn multiply_f32(
    [rows, inner, columns]: [usize; 3],
    left: &[f32],
    right: &[f32],
    output: &mut [f32],
) {
    let stride = usize::cast_signed;
    // SAFETY: all three matrices are row-major and fill their slices.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            output.as_mut_ptr(),
            1,
            stride(columns),
            false,
            left.as_ptr(),
            1,
            stride(inner),
            right.as_ptr(),
            1,
            stride(columns),
            0f32,
            1f32,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
