//! Operations that a [`Tape`](crate::Tape) records; without a tape, they are part of candle's
//! graph.

use candle_core::op::BackpropOp;
use candle_core::shape::ShapeWithOneHole;
use candle_core::{CustomOp1, CustomOp2, CustomOp3, DType, Result, Shape, Storage, Tensor, bail};

use crate::autograd::tape::{is_recording, record};

macro_rules! recorded {
    ($name:ident, $compute:ident, $op:ident, $first:ident $there:ident $(, $other:ident $other_there:ident)*) => {
        /// Applies candle's operation and records it on a [`Tape`](crate::Tape).
        ///
        /// # Errors
        /// Those of the operation.
        pub fn $name(
            $first: &Tensor,
            $($other: &Tensor,)*
            op: impl $op + Send + Sync + 'static,
        ) -> Result<Tensor> {
            let inputs = [$first $(, $other)*];
            if !is_recording(&inputs) {
                return $first.$name($($other,)* op);
            }
            let (storage, shape) = $compute($first, $($other,)* &op)?;
            let output = Tensor::from_storage(storage, shape, BackpropOp::none(), true);
            let ($first, $($other,)* result) =
                ($first.clone(), $($other.clone(),)* output.clone());
            record(&inputs, &output, move |grad| {
                #[allow(unused_parens)] // with one input
                let ($first $(, $other)*) = op.bwd(&$first, $(&$other,)* &result, grad)?;
                Ok(vec![$first $(, $other)*])
            });
            Ok(output)
        }

        /// Computes the operation outside any graph.
        pub(crate) fn $compute(
            $first: &Tensor,
            $($other: &Tensor,)*
            op: &impl $op,
        ) -> Result<(Storage, Shape)> {
            let $first = $first.storage_and_layout();
            $(let $other = $other.storage_and_layout();)*
            match (&*$first.0, $(&*$other.0,)*) {
                (Storage::Cpu($there), $(Storage::Cpu($other_there),)*) => {
                    let (storage, shape) =
                        op.cpu_fwd($there, $first.1 $(, $other_there, $other.1)*)?;
                    Ok((Storage::Cpu(storage), shape))
                }
                (Storage::Cuda($there), $(Storage::Cuda($other_there),)*) => {
                    let (storage, shape) =
                        op.cuda_fwd($there, $first.1 $(, $other_there, $other.1)*)?;
                    Ok((Storage::Cuda(storage), shape))
                }
                (Storage::Metal($there), $(Storage::Metal($other_there),)*) => {
                    let (storage, shape) =
                        op.metal_fwd($there, $first.1 $(, $other_there, $other.1)*)?;
                    Ok((Storage::Metal(storage), shape))
                }
                #[allow(unreachable_patterns)] // with one input
                _ => bail!("{}: expected tensors on one device", op.name()),
            }
        }
    };
}

recorded!(apply_op1, computed1, CustomOp1, x x_there);
recorded!(apply_op2, computed2, CustomOp2, x x_there, y y_there);
recorded!(apply_op3, computed3, CustomOp3, x x_there, y y_there, z z_there);

/// Reshapes as candle's method does, recorded on a [`Tape`](crate::Tape).
///
/// # Errors
/// When the values do not fill the shape.
pub fn reshape(x: &Tensor, shape: impl ShapeWithOneHole) -> Result<Tensor> {
    let output = x.reshape(shape)?;
    if is_recording(&[x]) {
        let shape = x.shape().clone();
        record(&[x], &output, move |grad| {
            Ok(vec![Some(grad.reshape(shape)?)])
        });
    }
    Ok(output)
}

/// Transposes two dimensions into a contiguous tensor.
pub(crate) fn transposed(x: &Tensor, a: usize, b: usize) -> Result<Tensor> {
    let output = x.transpose(a, b)?.contiguous()?;
    if is_recording(&[x]) {
        record(&[x], &output, move |grad| {
            Ok(vec![Some(grad.transpose(a, b)?.contiguous()?)])
        });
    }
    Ok(output)
}

/// Concatenates tensors along a dimension.
pub(crate) fn cat(tensors: &[&Tensor], dim: usize) -> Result<Tensor> {
    let output = Tensor::cat(tensors, dim)?;
    if is_recording(tensors) {
        let sizes = tensors.iter().map(|tensor| tensor.dim(dim));
        let sizes = sizes.collect::<Result<Vec<_>>>()?;
        record(tensors, &output, move |grad| {
            let mut start = 0;
            let of = |size: usize| {
                start += size;
                grad.narrow(dim, start - size, size).map(Some)
            };
            sizes.into_iter().map(of).collect()
        });
    }
    Ok(output)
}

/// Converts the type as candle's method does, recorded on a [`Tape`](crate::Tape).
///
/// # Errors
/// When the device is out of memory.
pub fn to_dtype(x: &Tensor, dtype: DType) -> Result<Tensor> {
    let output = x.to_dtype(dtype)?;
    if is_recording(&[x]) && output.id() != x.id() {
        let dtype = x.dtype();
        record(&[x], &output, move |grad| {
            Ok(vec![Some(grad.to_dtype(dtype)?)])
        });
    }
    Ok(output)
}
