//! Convolution on bf16 tensors, on CPUs with instructions for bf16: products read bf16, sum in
//! `f32`, and round their results once.
//!
//! The windows of all points are read in a padded copy of the image ([`Windows`]). Pairs of values
//! are whole there: an odd number of channels gets one more, of zeros. The weight's gradient is that
//! of a linear layer on im2col's rows, a few images at a time.

use std::borrow::Cow;

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor};
use half::bf16;
use rayon::prelude::*;

use super::TASK_IMAGES;
use super::grid::{Grid, mirrored, with_channels};
use crate::cpu::floats::Floats;
use crate::cpu::gemm::{Sum, Target};
use crate::cpu::output::computed;
use crate::cpu::simd;
use crate::half_precision::{narrow, narrow_values, with_narrow_values};
use crate::matmul::kernel::Bf16Kernel;
use crate::matmul::operand::Operand;
use crate::matmul::packed_matrix::PackedMatrix;
use crate::matmul::transposed::Transposed;
use crate::matmul::unpacked::{Lhs, Product, RowMajor, Windows, multiply};
use crate::nn::broadcast::SumSlices;
use crate::nn::im2col;

/// Most values of im2col's rows at a time, unless one image has more.
const PIECE: usize = 1 << 18;

/// The convolution of contiguous tensors.
pub(super) struct Conv2dBf16 {
    pub(super) kernel: Bf16Kernel,
    pub(super) side: usize,
}

impl CustomOp3 for Conv2dBf16 {
    fn name(&self) -> &'static str {
        "conv2d-bf16"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = narrow_values(self.name(), x, x_layout)?;
        let weight = narrow_values(self.name(), weight, weight_layout)?;
        let (outputs, _) = weight_layout.shape().dims2()?;
        let channels = x_layout.dims()[3];
        let weight = with_even_count(weight, channels, 1);
        let rows = RowMajor::new(&weight, outputs, weight.len() / outputs.max(1));
        let matrix = PackedMatrix::in_parts(Operand::from(rows).transposed(), self.side);
        let mut buffer = Vec::new();
        let bias = Floats::of(self.name(), bias, bias_layout)?.wide(0..outputs, &mut buffer);
        let grid = Grid::new(x_layout, self.side)?;
        let maps = self.convolve(grid, x, channels, &matrix, Some(bias));
        Ok((CpuStorage::BF16(maps), with_channels(x_layout, outputs)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.to_dtype(DType::BF16)?.contiguous()?;
        let grid = Grid::new(x.layout(), self.side)?;
        let channels = [x.dim(3)?, weight.dim(0)?];
        // Nothing uses the gradient of an image.
        let dx = if x.track_op() {
            let dx = with_narrow_values(self.name(), [weight, &grad], |[weight, grad]| {
                self.input_gradient(grid, weight, grad, channels)
            })?;
            Some(Tensor::from_vec(dx, x.shape(), x.device())?)
        } else {
            None
        };
        let dweight = with_narrow_values(self.name(), [x, &grad], |[x, grad]| {
            self.weight_gradient(grid, x, grad, channels)
        })?;
        let dweight = Tensor::from_vec(dweight, weight.shape(), x.device())?;
        let dbias = grad.apply_op2_no_bwd(bias, &SumSlices)?;
        Ok((dx, Some(dweight), Some(dbias)))
    }
}

impl Conv2dBf16 {
    /// Convolves all images by a matrix `[side * side * even channels, outputs]`.
    fn convolve(
        &self,
        grid: Grid,
        images: &[bf16],
        channels: usize,
        matrix: &PackedMatrix,
        bias: Option<&[f32]>,
    ) -> Vec<bf16> {
        let outputs = matrix.columns();
        let stride = channels.next_multiple_of(2);
        let image = grid.area() * channels;
        computed(
            images.len() / channels * outputs,
            grid.area() * outputs,
            || vec![bf16::ZERO; grid.padded() * stride],
            |padded, number, values| {
                let image = with_even_count(&images[number * image..][..image], channels, 1);
                grid.pad(&image, stride, padded);
                let windows = Windows {
                    values: padded,
                    height: grid.height,
                    width: grid.width,
                    side: self.side,
                    point_stride: stride,
                    line_stride: grid.line() * stride,
                };
                let product = Product::Bf16 {
                    values,
                    row_stride: outputs,
                };
                let lhs = Lhs::Windows(windows);
                multiply(self.kernel, product, lhs, matrix, 1.0, bias);
            },
        )
    }

    /// Convolves `dy` with the mirrored kernel, inputs and outputs exchanged.
    fn input_gradient(
        &self,
        grid: Grid,
        weight: &[bf16],
        grad: &[bf16],
        [channels, outputs]: [usize; 2],
    ) -> Vec<bf16> {
        let mirrored = mirrored(weight, self.side, channels);
        let rows = with_even_count(&mirrored, outputs, channels);
        let matrix = RowMajor::new(&rows, rows.len() / channels, channels);
        let matrix = PackedMatrix::in_parts(Operand::from(matrix), self.side);
        self.convolve(grid, grad, outputs, &matrix, None)
    }

    /// Computes the weight's gradient, one sum per task of images, and these in order.
    fn weight_gradient(
        &self,
        grid: Grid,
        x: &[bf16],
        grad: &[bf16],
        [channels, outputs]: [usize; 2],
    ) -> Vec<bf16> {
        let tasks: Vec<Vec<f32>> = grad
            .par_chunks(TASK_IMAGES * grid.area() * outputs)
            .zip(x.par_chunks(TASK_IMAGES * grid.area() * channels))
            .map(|(grad, x)| self.sum(grid, [grad, x], [channels, outputs]))
            .collect();
        let mut tasks = tasks.into_iter();
        let mut sums = tasks.next().unwrap_or_default();
        for task in tasks {
            simd::add_to(&mut sums, &task);
        }
        let mut dweight = vec![bf16::ZERO; sums.len()];
        narrow(&sums, &mut dweight);
        dweight
    }

    /// Computes the gradient of some images: `dy^T im2col(x)`, `[outputs, side * side * channels]`.
    fn sum(
        &self,
        grid: Grid,
        [grad, x]: [&[bf16]; 2],
        [channels, outputs]: [usize; 2],
    ) -> Vec<f32> {
        let inputs = self.side.pow(2) * channels;
        let neighbourhoods = im2col::Grid {
            height: grid.height,
            width: grid.width,
            channels,
            side: self.side,
            stride: 1,
        };
        let piece = (PIECE / (grid.area() * inputs)).max(1) * grid.area(); // points
        let mut sums = vec![0f32; outputs * inputs];
        let mut rows = vec![bf16::ZERO; piece.min(x.len() / channels) * inputs];
        let mut transposed_grad = Transposed::new(self.kernel);
        let mut packed_rows = PackedMatrix::default();
        for (grad, x) in grad.chunks(piece * outputs).zip(x.chunks(piece * channels)) {
            let points = x.len() / channels;
            let images = x.chunks(grid.area() * channels);
            for (image, rows) in images.zip(rows.chunks_mut(grid.area() * inputs)) {
                neighbourhoods.take(image, rows);
            }
            transposed_grad.pack(RowMajor::new(grad, points, outputs));
            packed_rows.pack(RowMajor::new(&rows, points, inputs));
            let target = Target {
                values: &mut sums,
                row_stride: inputs,
            };
            let product = Product::F32(target, Sum::Add);
            let lhs = transposed_grad.lhs();
            multiply(self.kernel, product, lhs, &packed_rows, 1.0, None);
        }
        sums
    }
}

/// Returns the values with a unit of zeros after every `count` units if that is odd.
fn with_even_count(values: &[bf16], count: usize, unit: usize) -> Cow<'_, [bf16]> {
    if count.is_multiple_of(2) {
        return Cow::Borrowed(values);
    }
    let mut even = Vec::with_capacity(values.len() / count * (count + 1));
    for units in values.chunks(count * unit) {
        even.extend_from_slice(units);
        even.resize(even.len() + unit, bf16::ZERO);
    }
    Cow::Owned(even)
}

#[cfg(test)]
mod tests;
