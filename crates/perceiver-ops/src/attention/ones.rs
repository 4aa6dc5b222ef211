//! Rows with a 1 behind them, and weights with their bias as one more column: what lets products of matrices add biases and take sums.

#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, Shape};
use candle_core::{D, Result, Tensor};

#[cfg(feature = "cuda")]
use crate::cuda::{self, Operand};
#[cfg(feature = "cuda")]
use crate::in_graph::with_backward;
#[cfg(feature = "cuda")]
use crate::linear::with_width;

/// Rows `[..., width]` with a 1 behind them, which a bias is multiplied by and which sums up what reads them, then zeros up to a multiple
/// of 8; outside any graph.
pub(crate) fn with_ones(x: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::has_kernels(x) {
        let width = x.dim(D::Minus1)?;
        let kernel = |[x]: [Operand; 1]| widths("with_ones", [x], [width, padded_width(width)]);
        return cuda::computed([&x.contiguous()?], kernel);
    }
    with_ones_composed(x)
}

/// The same by candle's own operations.
pub(crate) fn with_ones_composed(x: &Tensor) -> Result<Tensor> {
    let one = x.narrow(D::Minus1, 0, 1)?.ones_like()?;
    with_padding(&Tensor::cat(&[x, &one], D::Minus1)?, x.rank() - 1)
}

/// The first `width` values of rows, outside any graph.
pub(crate) fn without_ones(x: &Tensor, width: usize) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::has_kernels(x) {
        let padded = x.dim(D::Minus1)?;
        let kernel = |[x]: [Operand; 1]| widths("without_ones", [x], [width, padded]);
        return cuda::computed([&x.contiguous()?], kernel);
    }
    x.narrow(D::Minus1, 0, width)?.contiguous()
}

/// A weight `[outputs, inputs]` with its bias `[outputs]` as one more column, then zeros up to a multiple of 8. What `changes_nothing` is
/// another bias, whose gradient is there and zero.
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

/// Zeros up to a multiple of 8 in a dimension, as matrix units like it.
pub(crate) fn with_padding(x: &Tensor, dim: usize) -> Result<Tensor> {
    let size = x.dim(dim)?;
    x.pad_with_zeros(dim, 0, size.next_multiple_of(8) - size)
}

#[cfg(feature = "cuda")]
const fn padded_width(width: usize) -> usize {
    (width + 1).next_multiple_of(8)
}

/// Rows of the narrower of two widths made from those of the wider, or the other way round, as the kernel says.
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
