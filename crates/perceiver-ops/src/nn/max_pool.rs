//! Max pooling over windows of 2 x 2 points of channels-last feature maps, with a backward pass.
//!
//! The gradient of a window goes to its first maximum, left to right and top to bottom.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};

use crate::autograd::recorded_ops::apply_op1;
use crate::cpu::floats::{Floats, are_floats, map_units};
use crate::cpu::simd::vectorised;
use crate::half_precision::{is_narrow_on_cpu, widened};

/// Side of the windows.
const SIDE: usize = 2;

/// Takes the maximum of every window: `[batch, H, W, channels] -> [batch, H / 2, W / 2, channels]`.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// let x = Tensor::new(&[[[[1f32], [2.0]], [[4.0], [3.0]]]], &Device::Cpu)?;
/// let y = perceiver_ops::max_pool(&x)?;
/// assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, [4.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// When `x` does not have four dimensions, or its height or width is odd or 0.
pub fn max_pool(x: &Tensor) -> Result<Tensor> {
    let (_, height, width, _) = x.dims4()?;
    if !height.is_multiple_of(SIDE) || !width.is_multiple_of(SIDE) || x.elem_count() == 0 {
        bail!(
            "max-pool: expected an even height and width and a feature map that is not empty, found {:?}",
            x.dims()
        );
    }
    if are_floats([x]) {
        apply_op1(&x.contiguous()?, MaxPool)
    } else if is_narrow_on_cpu(x) {
        widened([x], |[x]| max_pool(x))
    } else {
        max_pool_composed(x)
    }
}

/// Computes [`max_pool`] by candle's operations: the fallback for devices without a kernel, and
/// the reference in tests. Where a window has several maxima, each of them gets its gradient.
///
/// # Errors
/// As for [`max_pool`].
pub fn max_pool_composed(x: &Tensor) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    let (rows, columns) = (height / SIDE, width / SIDE);
    x.reshape((batch * rows, SIDE, columns, SIDE, channels))?
        .max(1)?
        .max(2)?
        .reshape((batch, rows, columns, channels))
}

vectorised! {
    /// Computes the maxima of the columns of `above` and `below` `[SIDE, channels]`, two lines.
    fn maxima(above: &[f32], below: &[f32], y: &mut [f32]) {
        let channels = y.len();
        let (above, below) = (above.split_at(channels), below.split_at(channels));
        let above = above.0.iter().zip(above.1);
        let windows = above.zip(below.0.iter().zip(below.1));
        for (y, ((a, b), (c, d))) in y.iter_mut().zip(windows) {
            *y = a.max(*b).max(c.max(*d));
        }
    }

    /// Passes the gradient of a window to its first maximum.
    fn pass(above: &[f32], below: &[f32], dy: &[f32], to_above: &mut [f32], to_below: &mut [f32]) {
        let channels = dy.len();
        let (above, below) = (above.split_at(channels), below.split_at(channels));
        let (to_above, to_below) = (to_above.split_at_mut(channels), to_below.split_at_mut(channels));
        let above = above.0.iter().zip(above.1);
        let windows = above.zip(below.0.iter().zip(below.1));
        let to_above = to_above.0.iter_mut().zip(to_above.1);
        let to_windows = to_above.zip(to_below.0.iter_mut().zip(to_below.1));
        let windows = dy.iter().zip(windows.zip(to_windows));
        for (dy, (((a, b), (c, d)), ((to_a, to_b), (to_c, to_d)))) in windows {
            let most = a.max(*b).max(c.max(*d));
            let is_a = *a >= most;
            let is_b = !is_a && *b >= most;
            let is_c = !is_a && !is_b && *c >= most;
            let of = |is_first: bool| if is_first { *dy } else { 0.0 };
            *to_a = of(is_a);
            *to_b = of(is_b);
            *to_c = of(is_c);
            *to_d = of(!is_a && !is_b && !is_c);
        }
    }
}

struct MaxPool;

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max-pool"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = Floats::of(self.name(), x, layout)?;
        let (batch, height, width, channels) = layout.shape().dims4()?;
        let line = width * channels;
        let y = map_units([(x, SIDE * line)], line / SIDE, |[lines], y| {
            let (above, below) = lines.split_at(line);
            let above = above.chunks(SIDE * channels);
            let windows = above.zip(below.chunks(SIDE * channels));
            for (y, (above, below)) in y.chunks_mut(channels).zip(windows) {
                maxima(above, below, y);
            }
        });
        let shape = Shape::from((batch, height / SIDE, width / SIDE, channels));
        Ok((y, shape))
    }

    fn bwd(&self, x: &Tensor, _output: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        x.apply_op2_no_bwd(&grad.contiguous()?, &MaxPoolBackward)
            .map(Some)
    }
}

/// The operation `(x, dy) -> dx`.
struct MaxPoolBackward;

impl CustomOp2 for MaxPoolBackward {
    fn name(&self) -> &'static str {
        "max-pool-backward"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        dy: &CpuStorage,
        dy_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = Floats::of(self.name(), x, x_layout)?;
        let dy = Floats::of(self.name(), dy, dy_layout)?;
        let (_, _, width, channels) = x_layout.shape().dims4()?;
        let (line, window) = (width * channels, SIDE * channels);
        let inputs = [(x, SIDE * line), (dy, line / SIDE)];
        let dx = map_units(inputs, SIDE * line, |[x, dy], dx| {
            let (above, below) = x.split_at(line);
            let (to_above, to_below) = dx.split_at_mut(line);
            let from = above.chunks(window).zip(below.chunks(window));
            let to = to_above.chunks_mut(window).zip(to_below.chunks_mut(window));
            for (dy, (from, to)) in dy.chunks(channels).zip(from.zip(to)) {
                pass(from.0, from.1, dy, to.0, to.1);
            }
        });
        Ok((dx, x_layout.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Var};

    #[test]
    fn the_gradient_of_a_window_goes_to_its_first_maximum() {
        let x: [f32; 8] = [1.0, 5.0, 2.0, 2.0, 5.0, 0.0, 2.0, -1.0];
        let x = Tensor::new(&x, &Device::Cpu).unwrap();
        let x = Var::from_tensor(&x.reshape((1, 2, 4, 1)).unwrap()).unwrap();
        let y = max_pool(&x).unwrap();
        let values = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(&y), [5.0, 2.0]);
        let weights = Tensor::new(&[3f32, 4.0], &Device::Cpu).unwrap();
        let loss = (y.flatten_all().unwrap() * weights).unwrap();
        let gradients = loss.sum_all().unwrap().backward().unwrap();
        let gradient = values(gradients.get(&x).unwrap());
        assert_eq!(gradient, [0.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    }

    /// Maxima need no rounding.
    #[test]
    fn bf16_has_the_values_and_gradients_of_f32() {
        let values = (0..4 * 6 * 20).map(|i| ((i * 37) % 101) as f32 / 8.0 - 6.0);
        let x = Tensor::from_iter(values, &Device::Cpu).unwrap();
        let x = x.reshape((1, 4, 6, 20)).unwrap();
        let [expected, found] = [DType::F32, DType::BF16].map(|dtype| {
            let x = Var::from_tensor(&x.to_dtype(dtype).unwrap()).unwrap();
            let y = max_pool(&x).unwrap();
            let loss = (&y * &y.detach()).unwrap().sum_all().unwrap();
            let gradients = loss.backward().unwrap();
            [&y, gradients.get(&x).unwrap()].map(|x| {
                assert_eq!(x.dtype(), dtype);
                let x = x.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
                x.to_vec1::<f32>().unwrap()
            })
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn odd_sizes_are_rejected() {
        for shape in [[1, 3, 4, 1], [1, 4, 5, 2], [0, 4, 4, 1]] {
            let x = Tensor::zeros(&shape, DType::F32, &Device::Cpu).unwrap();
            let error = max_pool(&x).unwrap_err().to_string();
            assert!(error.contains("an even height and width"), "{error}");
        }
    }
}
