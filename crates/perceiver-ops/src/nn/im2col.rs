//! im2col: gathers the neighbourhood of every point of a feature map, so that a convolution is one
//! matrix product.
//!
//! `y[i, j] = (x[s i - p, s j - p], ..., x[s i + p, s j + p])` for stride `s` and kernel side
//! `2 p + 1`, with zeros beyond the edges. A linear layer on it is a convolution with "same"
//! padding. candle's own convolution makes these copies on one thread, and again for each of the
//! two gradients.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use half::bf16;
use rayon::prelude::*;

use crate::autograd::recorded_ops::apply_op1;
use crate::cpu::floats::{Floats, are_floats, storage_like};
use crate::{cpu, cuda};

/// Gathers neighbourhoods: `[batch, H, W, channels] -> [batch, ceil(H / stride), ceil(W / stride),
/// side * side * channels]`, with the values of each ordered (row, column, channel).
///
/// # Errors
/// When `side` is even, the stride is 0, or `x` is empty or does not have four dimensions.
pub fn im2col(x: &Tensor, side: usize, stride: usize) -> Result<Tensor> {
    let grid = Grid::new(x, side, stride)?;
    if are_floats([x]) || cuda::has_kernels(x) {
        apply_op1(&x.contiguous()?, Im2col(grid))
    } else {
        compose(x, grid)
    }
}

/// Computes [`im2col`] by candle's operations: the fallback for devices without a kernel, and the
/// reference in tests.
///
/// # Errors
/// As for [`im2col`].
pub fn im2col_composed(x: &Tensor, side: usize, stride: usize) -> Result<Tensor> {
    compose(x, Grid::new(x, side, stride)?)
}

fn compose(x: &Tensor, grid: Grid) -> Result<Tensor> {
    let margin = grid.side / 2;
    let padded = x
        .contiguous()?
        .pad_with_zeros(1, margin, margin)?
        .pad_with_zeros(2, margin, margin)?;
    let picks = |count: usize, offset: usize| {
        let picks = (0..count).map(|i| (i * grid.stride + offset) as u32);
        Tensor::from_iter(picks, x.device())
    };
    let [rows, columns] = grid.outputs();
    let mut parts = Vec::with_capacity(grid.side * grid.side);
    for row in 0..grid.side {
        let of_row = padded.index_select(&picks(rows, row)?, 1)?;
        for column in 0..grid.side {
            parts.push(of_row.index_select(&picks(columns, column)?, 2)?);
        }
    }
    Tensor::cat(&parts, 3)
}

/// The sizes of a feature map, and side and stride of the neighbourhoods.
#[derive(Clone, Copy)]
pub(crate) struct Grid {
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) channels: usize,
    pub(crate) side: usize,
    pub(crate) stride: usize,
}

impl Grid {
    fn new(x: &Tensor, side: usize, stride: usize) -> Result<Self> {
        let (_, height, width, channels) = x.dims4()?;
        if side.is_multiple_of(2) || stride == 0 || x.elem_count() == 0 {
            bail!(
                "im2col: expected an odd side, a stride of at least 1 and a feature map that is not empty, found {side}, \
                 {stride} and {:?}",
                x.dims()
            );
        }
        Ok(Self {
            height,
            width,
            channels,
            side,
            stride,
        })
    }

    /// Returns the rows and columns of neighbourhoods.
    fn outputs(&self) -> [usize; 2] {
        [self.height, self.width].map(|length| length.div_ceil(self.stride))
    }

    fn image_shape(&self, batch: usize) -> Shape {
        (batch, self.height, self.width, self.channels).into()
    }

    fn taken_shape(&self, batch: usize) -> Shape {
        let [rows, columns] = self.outputs();
        (batch, rows, columns, self.side * self.side * self.channels).into()
    }

    /// Returns the arguments for GPU kernels.
    #[cfg(feature = "cuda")]
    fn numbers(&self) -> [cuda::Number; 5] {
        let sizes = [
            self.height,
            self.width,
            self.channels,
            self.side,
            self.stride,
        ];
        sizes.map(|size| cuda::Number::Whole(size as u64))
    }

    /// Returns the number of values of an image and of its neighbourhoods.
    fn lengths(&self) -> [usize; 2] {
        let [rows, columns] = self.outputs();
        [
            self.height * self.width * self.channels,
            rows * columns * self.side * self.side * self.channels,
        ]
    }

    /// Calls `run` for every run of values that an image and its neighbourhoods share, with its
    /// start in each and its length.
    #[inline]
    fn for_each_run(&self, mut run: impl FnMut(usize, usize, usize)) {
        let (margin, channels) = (self.side / 2, self.channels);
        let [rows, columns] = self.outputs();
        for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |c| (row, c))) {
            let start = (row * columns + column) * self.side * self.side * channels;
            let first = (column * self.stride).saturating_sub(margin);
            let end = (column * self.stride + margin + 1).min(self.width);
            let skipped = (first + margin) - column * self.stride;
            for line in 0..self.side {
                let Some(y) = (row * self.stride + line).checked_sub(margin) else {
                    continue;
                };
                if y < self.height {
                    let to = start + (line * self.side + skipped) * channels;
                    let from = (y * self.width + first) * channels;
                    run(from, to, (end - first) * channels);
                }
            }
        }
    }
}

impl Grid {
    /// Returns the neighbourhoods of all points; values beyond the edges are `zero`.
    fn taken<T: Copy + Send + Sync>(self, x: &[T], batch: usize, zero: T) -> Vec<T> {
        let [image, taken] = self.lengths();
        let mut output = vec![zero; batch * taken];
        output
            .par_chunks_mut(taken)
            .zip(x.par_chunks(image))
            .for_each(|(output, x)| self.take(x, output));
        output
    }

    /// Writes the neighbourhoods of an image's points over those of another, or over zeros: what
    /// lies beyond the edges is left as it is.
    pub(crate) fn take<T: Copy>(&self, image: &[T], output: &mut [T]) {
        self.for_each_run(|from, to, length| {
            output[to..to + length].copy_from_slice(&image[from..from + length]);
        });
    }
}

struct Im2col(Grid);

impl CustomOp1 for Im2col {
    fn name(&self) -> &'static str {
        "im2col"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (grid, batch) = (self.0, layout.dims()[0]);
        let taken = match Floats::of(self.name(), storage, layout)? {
            Floats::F32(x) => CpuStorage::F32(grid.taken(x, batch, 0.0)),
            Floats::Bf16(x) => CpuStorage::BF16(grid.taken(x, batch, bf16::ZERO)),
        };
        Ok((taken, grid.taken_shape(batch)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let shape = self.0.taken_shape(layout.dims()[0]);
        let taken = cuda::map_to("neighbourhoods", [(x, layout)], &shape, &self.0.numbers())?;
        Ok((taken, shape))
    }

    fn bwd(&self, _x: &Tensor, _output: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        grad.contiguous()?
            .apply_op1_no_bwd(&Im2colBackward(self.0))
            .map(Some)
    }
}

/// The backward operation: sums the gradients of all neighbourhoods at every point.
struct Im2colBackward(Grid);

impl CustomOp1 for Im2colBackward {
    fn name(&self) -> &'static str {
        "im2col-backward"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let dy = Floats::of(self.name(), storage, layout)?;
        let (grid, batch) = (self.0, layout.dims()[0]);
        let [image, taken] = grid.lengths();
        let mut output = cpu::zeros(batch * image);
        output
            .par_chunks_mut(image)
            .enumerate()
            .for_each(|(number, output)| {
                let mut buffer = Vec::new();
                let dy = dy.wide(number * taken..(number + 1) * taken, &mut buffer);
                grid.for_each_run(|to, from, length| {
                    let sums = &mut output[to..to + length];
                    for (sum, value) in sums.iter_mut().zip(&dy[from..from + length]) {
                        *sum += value;
                    }
                });
            });
        Ok((storage_like(dy, output), grid.image_shape(batch)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, dy: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let shape = self.0.image_shape(layout.dims()[0]);
        let kernel = "neighbourhoods_backward";
        let sums = cuda::map_to(kernel, [(dy, layout)], &shape, &self.0.numbers())?;
        Ok((sums, shape))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn im2col_and_a_linear_layer_equal_a_convolution() {
        let values = |count: usize| (0..count).map(|i| ((i * 37) % 19) as f32 - 9.0);
        let (height, width, channels, outputs) = (5, 6, 3, 4);
        for stride in [1, 2] {
            let x = Tensor::from_iter(values(height * width * channels), &Device::Cpu).unwrap();
            let x = x.reshape((1, height, width, channels)).unwrap();
            let kernel = Tensor::from_iter(values(outputs * channels * 9), &Device::Cpu).unwrap();
            let kernel = kernel.reshape((outputs, channels, 3, 3)).unwrap();
            let expected = x
                .permute((0, 3, 1, 2))
                .unwrap()
                .conv2d(&kernel, 1, stride, 1, 1)
                .unwrap();
            let rows = kernel.permute((2, 3, 1, 0)).unwrap();
            let rows = rows.reshape((9 * channels, outputs)).unwrap();
            let actual = im2col(&x, 3, stride)
                .unwrap()
                .broadcast_matmul(&rows)
                .unwrap();
            let actual = actual.permute((0, 3, 1, 2)).unwrap();
            assert_eq!(
                actual.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
                expected.flatten_all().unwrap().to_vec1::<f32>().unwrap()
            );
        }
    }

    #[test]
    fn even_kernel_sizes_are_rejected() {
        let x = Tensor::zeros((1, 4, 4, 1), candle_core::DType::F32, &Device::Cpu).unwrap();
        for (side, stride) in [(2, 1), (3, 0)] {
            let error = im2col(&x, side, stride).unwrap_err().to_string();
            assert!(error.contains("expected an odd side"), "{error}");
        }
    }
}
