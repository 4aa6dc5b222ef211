//! Appends a column of ones to inputs and the bias to weights, so that matrix products add biases
//! and take sums.

#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, Shape};
use candle_core::{D, Result, Tensor};

#[cfg(feature = "cuda")]
use crate::autograd::custom_function::with_backward;
#[cfg(feature = "cuda")]
use crate::cuda::{self, Operand};
#[cfg(feature = "cuda")]
use crate::nn::linear::with_width;

/// Appends a 1 to rows `[..., width]`, which multiplies a bias and yields the sum of attention
/// weights, then zeros up to a multiple of 8; outside any graph.
pub(crate) fn with_ones(x: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::has_kernels(x) {
        let width = x.dim(D::Minus1)?;
        let kernel = |[x]: [Operand; 1]| widths("with_ones", [x], [width, padded_width(width)]);
        return cuda::computed([&x.contiguous()?], kernel);
    }
    with_ones_composed(x)
}

/// Computes [`with_ones`] by candle's operations.
pub(crate) fn with_ones_composed(x: &Tensor) -> Result<Tensor> {
    let one = x.narrow(D::Minus1, 0, 1)?.ones_like()?;
    with_padding(&Tensor::cat(&[x, &one], D::Minus1)?, x.rank() - 1)
}

/// Returns the first `width` values of every row, outside any graph.
pub(crate) fn without_ones(x: &Tensor, width: usize) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::has_kernels(x) {
        let padded = x.dim(D::Minus1)?;
        let kernel = |[x]: [Operand; 1]| widths("without_ones", [x], [width, padded]);
        return cuda::computed([&x.contiguous()?], kernel);
    }
    x.narrow(D::Minus1, 0, width)?.contiguous()
}

/// Appends the bias `[outputs]` to a weight `[outputs, inputs]` as a column, then zeros up to a
/// multiple of 8. `changes_nothing` is another bias, which gets a gradient of zero.
pub(crate) fn with_column(
    weight: &Tensor,
    bias: &Tensor,
    changes_nothing: Option<&Tensor>,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::has_kernels(weight) {
        let width = weight.dim(1)?;
        let operands = [&weight.contiguous()?, &bias.contiguous()?];
        let columns = cuda::computed_alone(operands, |operands| {
            widths("with_column", operands, [width, padded_width(width)])
        })?;
        let nothing = changes_nothing.map(Tensor::zeros_like).transpose()?;
        let third = changes_nothing.unwrap_or(bias);
        return with_backward([weight, bias, third], columns, move |grad| {
            let of_bias = grad.narrow(1, width, 1)?.contiguous()?.squeeze(1)?;
            Ok([
                Some(without_ones(grad, width)?),
                Some(of_bias),
                nothing.clone(),
            ])
        });
    }
    let columns = with_padding(&Tensor::cat(&[weight, &bias.unsqueeze(1)?], 1)?, 1)?;
    let Some(third) = changes_nothing else {
        return Ok(columns);
    };
    // candle prunes a product with 0.
    let sum = third.sum_all()?;
    columns.broadcast_add(&sum.broadcast_sub(&sum)?)
}

/// Pads a dimension with zeros to a multiple of 8, which suits matrix units.
pub(crate) fn with_padding(x: &Tensor, dim: usize) -> Result<Tensor> {
    let size = x.dim(dim)?;
    x.pad_with_zeros(dim, 0, size.next_multiple_of(8) - size)
}

#[cfg(feature = "cuda")]
const fn padded_width(width: usize) -> usize {
    (width + 1).next_multiple_of(8)
}

/// Copies rows from one width to another with the named kernel, which pads or truncates.
#[cfg(feature = "cuda")]
fn widths<const N: usize>(
    kernel: &str,
    operands: [Operand; N],
    [narrow, wide]: [usize; 2],
) -> Result<(CudaStorage, Shape)> {
    let dims = operands[0].1.dims();
    let is_narrow = dims.last() == Some(&narrow);
    let shape = with_width(dims, if is_narrow { wide } else { narrow });
    let numbers = [narrow, wide].map(|number| cuda::Number::Whole(number as u64));
    Ok((cuda::map_to(kernel, operands, &shape, &numbers)?, shape))
}
