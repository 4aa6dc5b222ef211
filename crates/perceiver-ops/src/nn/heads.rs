//! Splitting a width into attention heads and joining them again, with a backward pass.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use half::bf16;
use rayon::prelude::*;

use crate::autograd::recorded_ops::{apply_op1, reshape, transposed};
use crate::cpu::floats::{Floats, are_floats};

/// Splits the width into heads: `[batch, length, heads * width] -> [batch, heads, length, width]`.
///
/// # Errors
/// When the width is no multiple of `heads`.
pub fn split_heads(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (batch, length, width) = x.dims3()?;
    swap_middle(&reshape(x, (batch, length, heads, width / heads.max(1)))?)
}

/// Joins heads: `[batch, heads, length, width] -> [batch, length, heads * width]`, the inverse of
/// [`split_heads`].
///
/// # Errors
/// When `x` does not have four dimensions.
pub fn join_heads(x: &Tensor) -> Result<Tensor> {
    let (batch, heads, length, width) = x.dims4()?;
    reshape(&swap_middle(x)?, (batch, length, heads * width))
}

/// Swaps the middle dimensions, `[a, b, c, d] -> [a, c, b, d]`, with a copy. A transposed view
/// would do in the forward pass, but candle sums the gradients of views value by value on one
/// thread.
fn swap_middle(x: &Tensor) -> Result<Tensor> {
    if are_floats([x]) {
        apply_op1(&x.contiguous()?, SwapMiddle)
    } else {
        transposed(x, 1, 2)
    }
}

struct SwapMiddle;

impl CustomOp1 for SwapMiddle {
    fn name(&self) -> &'static str {
        "swap-heads"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (a, b, c, d) = layout.shape().dims4()?;
        let sizes = [b, c, d];
        let swapped = match Floats::of(self.name(), storage, layout)? {
            Floats::F32(x) => CpuStorage::F32(with_middle_swapped(x, sizes, 0.0)),
            Floats::Bf16(x) => CpuStorage::BF16(with_middle_swapped(x, sizes, bf16::ZERO)),
        };
        Ok((swapped, Shape::from((a, c, b, d))))
    }

    fn bwd(&self, _x: &Tensor, _output: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        grad.contiguous()?.apply_op1_no_bwd(&Self).map(Some)
    }
}

fn with_middle_swapped<T: Copy + Send + Sync>(x: &[T], [b, c, d]: [usize; 3], zero: T) -> Vec<T> {
    let mut output = vec![zero; x.len()];
    let slice = (b * c * d).max(1);
    output
        .par_chunks_mut(slice)
        .zip(x.par_chunks(slice))
        .for_each(|(output, x)| {
            for (index, row) in output.chunks_mut(d).enumerate() {
                let (i, j) = (index / b, index % b); // output row (i, j) of [c, b] is input row (j, i) of [b, c]
                let from = (j * c + i) * d;
                row.copy_from_slice(&x[from..from + d]);
            }
        });
    output
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn split_and_join_heads_round_trip() {
        let x = Tensor::arange(0f32, 24.0, &Device::Cpu).unwrap();
        let x = Var::from_tensor(&x.reshape((2, 3, 4)).unwrap()).unwrap();
        let heads = split_heads(&x, 2).unwrap();
        assert_eq!(heads.dims(), [2, 2, 3, 2]);
        let first = heads.get(0).unwrap().to_vec3::<f32>().unwrap();
        assert_eq!(first[1], [[2.0, 3.0], [6.0, 7.0], [10.0, 11.0]]);
        let joined = join_heads(&heads).unwrap();
        assert_eq!(
            joined.to_vec3::<f32>().unwrap(),
            x.to_vec3::<f32>().unwrap()
        );

        // The gradient of the sum of squares, 2 x, passes back through both.
        let gradients = joined.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let expected = (x.as_tensor() * 2.0).unwrap().to_vec3::<f32>().unwrap();
        assert_eq!(
            gradients.get(&x).unwrap().to_vec3::<f32>().unwrap(),
            expected
        );
    }
}
