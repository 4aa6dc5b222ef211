//! Convolution with stride 1 and "same" padding over channels-last feature maps, with a backward
//! pass.
//!
//! `y[i, j] = b + sum_{r, s} W[r, s] x[i + r - p, j + s - p]` for a kernel of side `2 p + 1`, with
//! zeros beyond the edges. It equals [`linear`] of [`im2col`], without their copy of every value
//! for each of its neighbours: with `p` zeros before every line of an image, the neighbours that a
//! line of the kernel takes at point `t` are the adjacent values from point `t` on. So they are the
//! rows of a matrix that overlap in memory, and a convolution is one matrix product for each line
//! of the kernel. The points in the gaps are computed too, and dropped.

mod bf16;
mod grid;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::autograd::recorded_ops::apply_op3;
use crate::cpu;
use crate::cpu::gemm::{Matrix, Sum, Target};
use crate::cpu::output::computed;
use crate::cpu::simd::{self, LANES};
use crate::cpu::transpose::transpose;
use crate::half_precision::{is_narrow_on_cpu, widened};
use crate::matmul::kernel::Bf16Kernel;
use crate::matmul::right::{Products, Right};
use crate::nn::broadcast::SumSlices;
use crate::nn::conv2d::bf16::Conv2dBf16;
use crate::nn::conv2d::grid::{Grid, mirrored, with_channels};
use crate::nn::im2col::{im2col, im2col_composed};
use crate::nn::linear::{linear, linear_composed};

/// Number of images whose weight gradient is summed in one task; fixed, so that results do not
/// depend on the number of threads.
const TASK_IMAGES: usize = 16;

/// Convolves `x` `[batch, H, W, channels]` with `weight` `[outputs, side * side * channels]`, whose
/// values are ordered (row, column, channel) as those of [`im2col`], and adds `bias` `[outputs]`:
/// `[batch, H, W, outputs]`.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use perceiver_ops::conv2d;
///
/// let x = Tensor::new(&[[[[1f32], [2.0], [3.0]]]], &Device::Cpu)?; // one line of three points
/// let sum_of_neighbours = Tensor::ones((1, 9), candle_core::DType::F32, &Device::Cpu)?;
/// let y = conv2d(&x, &sum_of_neighbours, &Tensor::new(&[10f32], &Device::Cpu)?, 3)?;
/// assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, [13.0, 16.0, 15.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// When the shapes do not fit or `side` is even.
pub fn conv2d(x: &Tensor, weight: &Tensor, bias: &Tensor, side: usize) -> Result<Tensor> {
    check(x, weight, bias, side)?;
    if let Some(kernel) = Bf16Kernel::of([x, weight, bias]) {
        let (x, weight, bias) = (x.contiguous()?, weight.contiguous()?, bias.contiguous()?);
        return apply_op3(&x, &weight, &bias, Conv2dBf16 { kernel, side });
    }
    if is_narrow_on_cpu(x) {
        return widened([x, weight, bias], |[x, weight, bias]| {
            conv2d(x, weight, bias, side)
        });
    }
    let has_kernels = [x, weight, bias].into_iter().all(cpu::has_kernels);
    // The rows of few channels, such as those of an image, do not fill vectors.
    if !has_kernels || x.dim(3)? < LANES {
        return linear(&im2col(x, side, 1)?, weight, bias);
    }
    let (x, weight, bias) = (x.contiguous()?, weight.contiguous()?, bias.contiguous()?);
    apply_op3(&x, &weight, &bias, Conv2d { side })
}

/// Computes [`conv2d`] by [`im2col_composed`] and [`linear_composed`]: the reference in tests.
///
/// # Errors
/// As for [`conv2d`].
pub fn conv2d_composed(x: &Tensor, weight: &Tensor, bias: &Tensor, side: usize) -> Result<Tensor> {
    linear_composed(&im2col_composed(x, side, 1)?, weight, bias)
}

fn check(x: &Tensor, weight: &Tensor, bias: &Tensor, side: usize) -> Result<()> {
    let (_, _, _, channels) = x.dims4()?;
    let (outputs, inputs) = weight.dims2()?;
    let fits = !side.is_multiple_of(2) && inputs == side * side * channels;
    if !fits || bias.dims() != [outputs] || x.elem_count() == 0 {
        bail!(
            "conv2d: shapes {:?}, {:?} and {:?} do not fit a kernel of side {side}: expected an odd side and [batch, H, W, \
             channels], [outputs, side * side * channels] and [outputs]",
            x.dims(),
            weight.dims(),
            bias.dims()
        );
    }
    Ok(())
}

impl Grid {
    /// Returns the neighbours that a line of the kernel takes at every point, of a padded map:
    /// `[points, side * channels]`.
    fn neighbours<'a>(&self, padded: &'a [f32], channels: usize, line: usize) -> Matrix<'a> {
        Matrix {
            values: &padded[line * self.line() * channels..],
            rows: self.points(),
            columns: self.side() * channels,
            row_stride: channels,
            column_stride: 1,
        }
    }

    /// Convolves all images; `kernel` holds one `[side * channels, outputs]` per line.
    fn convolve(
        &self,
        images: &[f32],
        kernel: &[Right],
        [channels, outputs]: [usize; 2],
        bias: Option<&[f32]>,
    ) -> Vec<f32> {
        let image = self.area() * channels;
        computed(
            images.len() / channels * outputs,
            self.area() * outputs,
            || {
                let padded = vec![0f32; self.padded() * channels];
                (padded, vec![0f32; self.points() * outputs])
            },
            |(padded, points), number, map| {
                self.pad(&images[number * image..][..image], channels, padded);
                for (line, kernel) in kernel.iter().enumerate() {
                    let sum = if line == 0 { Sum::Replace } else { Sum::Add };
                    let target = Target {
                        values: points,
                        row_stride: outputs,
                    };
                    kernel.multiply(target, sum, self.neighbours(padded, channels, line), 1.0);
                }
                let lines = points.chunks(self.line() * outputs);
                for (to, line) in map.chunks_mut(self.width * outputs).zip(lines) {
                    to.copy_from_slice(&line[..to.len()]);
                }
                if let Some(bias) = bias {
                    simd::add_to_rows(map, bias);
                }
            },
        )
    }
}

struct Conv2d {
    side: usize,
}

impl CustomOp3 for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
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
        let x = cpu::values(self.name(), x, x_layout)?;
        let weight = cpu::values(self.name(), weight, weight_layout)?;
        let bias = cpu::values(self.name(), bias, bias_layout)?;
        let grid = Grid::new(x_layout, self.side)?;
        let (outputs, inputs) = weight_layout.shape().dims2()?;
        let channels = x_layout.dims()[3];
        let line = |line: usize| Matrix {
            values: &weight[line * self.side * channels..],
            rows: outputs,
            columns: self.side * channels,
            row_stride: inputs,
            column_stride: 1,
        };
        let kernel: Vec<Right> = (0..self.side)
            .map(|at| Right::transposed(Products::F32, line(at)))
            .collect();
        let maps = grid.convolve(x, &kernel, [channels, outputs], Some(bias));
        Ok((CpuStorage::F32(maps), with_channels(x_layout, outputs)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let side = self.side;
        let grad = grad.contiguous()?;
        // Nothing uses the gradient of an image.
        let dx = if x.track_op() {
            Some(grad.apply_op2_no_bwd(weight, &InputGradient { side })?)
        } else {
            None
        };
        let dweight = grad.apply_op2_no_bwd(x, &WeightGradient { side })?;
        let dbias = grad.apply_op2_no_bwd(bias, &SumSlices)?;
        Ok((dx, Some(dweight), Some(dbias)))
    }
}

/// The operation `(dy, W) -> dx`: a convolution of `dy` with the mirrored kernel, inputs and
/// outputs exchanged.
struct InputGradient {
    side: usize,
}

impl CustomOp2 for InputGradient {
    fn name(&self) -> &'static str {
        "conv2d-input-gradient"
    }

    fn cpu_fwd(
        &self,
        grad: &CpuStorage,
        grad_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let grad = cpu::values(self.name(), grad, grad_layout)?;
        let weight = cpu::values(self.name(), weight, weight_layout)?;
        let grid = Grid::new(grad_layout, self.side)?;
        let (outputs, inputs) = weight_layout.shape().dims2()?;
        let channels = inputs / self.side.pow(2);
        let mirrored = mirrored(weight, self.side, channels);
        let rows = self.side * outputs;
        let kernel: Vec<Right> = mirrored
            .chunks(rows * channels)
            .map(|line| Right::new(Products::F32, Matrix::new(line, rows, channels)))
            .collect();
        let dx = grid.convolve(grad, &kernel, [outputs, channels], None);
        Ok((CpuStorage::F32(dx), with_channels(grad_layout, channels)))
    }
}

/// The operation `(dy, x) -> dW`.
struct WeightGradient {
    side: usize,
}

impl CustomOp2 for WeightGradient {
    fn name(&self) -> &'static str {
        "conv2d-weight-gradient"
    }

    fn cpu_fwd(
        &self,
        grad: &CpuStorage,
        grad_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let grad = cpu::values(self.name(), grad, grad_layout)?;
        let x = cpu::values(self.name(), x, x_layout)?;
        let grid = Grid::new(x_layout, self.side)?;
        let (channels, outputs) = (x_layout.dims()[3], grad_layout.dims()[3]);
        let inputs = self.side.pow(2) * channels;
        let tasks: Vec<Vec<f32>> = grad
            .par_chunks(TASK_IMAGES * grid.area() * outputs)
            .zip(x.par_chunks(TASK_IMAGES * grid.area() * channels))
            .map(|(grad, x)| self.sum(grid, [grad, x], [channels, outputs]))
            .collect();
        let mut sums = tasks.into_iter();
        let mut dweight = sums.next().unwrap_or_default();
        for sum in sums {
            simd::add_to(&mut dweight, &sum);
        }
        Ok((CpuStorage::F32(dweight), Shape::from((outputs, inputs))))
    }
}

impl WeightGradient {
    /// Computes the gradient of some images, one after another:
    /// `[outputs, side * side * channels]`.
    fn sum(&self, grid: Grid, [grad, x]: [&[f32]; 2], [channels, outputs]: [usize; 2]) -> Vec<f32> {
        let (points, inputs) = (grid.points(), self.side.pow(2) * channels);
        let mut sums = vec![0f32; outputs * inputs];
        let mut padded = vec![0f32; grid.padded() * channels];
        let mut spread = vec![0f32; points * outputs];
        let mut buffer = vec![0f32; points * outputs];
        let images = x.chunks(grid.area() * channels);
        for (grad, image) in grad.chunks(grid.area() * outputs).zip(images) {
            grid.pad(image, channels, &mut padded);
            grid.spread(grad, outputs, &mut spread);
            transpose(Matrix::new(&spread, points, outputs), &mut buffer);
            let grad = Matrix::new(&buffer, outputs, points);
            for line in 0..self.side {
                let neighbours = grid.neighbours(&padded, channels, line);
                let target = Target {
                    values: &mut sums[line * self.side * channels..],
                    row_stride: inputs,
                };
                Right::new(Products::F32, neighbours).multiply(target, Sum::Add, grad, 1.0);
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn a_convolution_equals_candles() {
        let values = |count: usize| (0..count).map(|i| ((i * 37) % 19) as f32 - 9.0);
        let tensor = |shape: &[usize]| {
            let values = values(shape.iter().product());
            let values = Tensor::from_iter(values, &Device::Cpu).unwrap();
            values.reshape(shape).unwrap()
        };
        for (channels, outputs, side) in [(16, 5, 3), (3, 4, 3), (17, 20, 5)] {
            let x = tensor(&[2, 5, 6, channels]);
            let kernel = tensor(&[outputs, channels, side, side]);
            let bias = tensor(&[outputs]);
            let expected = x.permute((0, 3, 1, 2)).unwrap();
            let expected = expected.conv2d(&kernel, side / 2, 1, 1, 1).unwrap();
            let expected = expected.permute((0, 2, 3, 1)).unwrap();
            let expected = expected.broadcast_add(&bias).unwrap();
            let weight = kernel.permute((0, 2, 3, 1)).unwrap();
            let weight = weight.reshape((outputs, side * side * channels)).unwrap();
            let actual = conv2d(&x, &weight, &bias, side).unwrap();
            // Integers in f32: every order of the sum has the same bits.
            let values = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(values(&actual), values(&expected));
        }
    }

    #[test]
    fn mismatched_shapes_are_rejected() {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        let x = zeros(&[1, 4, 4, 2]);
        for (inputs, outputs, side) in [(18, 2, 3), (8, 3, 2), (16, 3, 3)] {
            let weight = zeros(&[3, inputs]);
            let error = conv2d(&x, &weight, &zeros(&[outputs]), side).unwrap_err();
            assert!(error.to_string().contains("do not fit a kernel"), "{error}");
        }
    }
}
