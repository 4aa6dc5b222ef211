//! The convolutional stem of `deepmind/vision-perceiver-conv`: 7 x 7 convolution, batch norm, `ReLU`
//! and 3 x 3 max pooling, both with stride 2.
//!
//! The batch norm uses its running statistics, in training too: they are constants of the
//! checkpoint, and only its weight and bias are trained.

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use perceiver_ops::linear;

use crate::error::{ModelError, Result};
use crate::perceiver_io::config::PerceiverIoConfig;
use crate::perceiver_io::kind::STEM_CHANNELS;
use crate::perceiver_io::windows::{Axis, windows};

/// Side of the convolution's kernel.
const KERNEL: usize = 7;

/// Zeros around the image in transformers.
const PADDING: usize = 3;

/// Side of the pooling windows.
const POOL: usize = 3;

/// Epsilon of the batch norm, added to the variance.
const EPSILON: f64 = 1e-5;

/// The stem's layers.
#[derive(Debug, Clone)]
pub(crate) struct ConvStem {
    kernel: Tensor, // [64, 3, 7, 7]
    weight: Tensor, // of the batch norm, [64]; so are the others
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    /// Whether convolution and pooling pad as the authors' model does.
    same_padding: bool,
}

impl ConvStem {
    pub(crate) fn new(config: &PerceiverIoConfig, vb: &VarBuilder) -> Result<Self> {
        let norm = vb.pp("batchnorm");
        let of_channels =
            |name: &str, value: f64| norm.get_with_hints(STEM_CHANNELS, name, Init::Const(value));
        let shape = (STEM_CHANNELS, 3, KERNEL, KERNEL);
        Ok(Self {
            kernel: vb.get_with_hints(shape, "conv.weight", config.initializer())?,
            weight: of_channels("weight", 1.0)?,
            bias: of_channels("bias", 0.0)?,
            running_mean: of_channels("running_mean", 0.0)?,
            running_var: of_channels("running_var", 1.0)?,
            same_padding: false,
        })
    }

    pub(crate) fn set_same_padding(&mut self, same_padding: bool) {
        self.same_padding = same_padding;
    }

    /// Returns the rows and columns of the output for images of this height and width; `None` if
    /// they are too small.
    pub(crate) fn grid(&self, size: [usize; 2]) -> Option<[usize; 2]> {
        let [[_, rows], [_, columns]] = self.axes(size)?;
        Some([rows.count, columns.count])
    }

    fn axes(&self, [height, width]: [usize; 2]) -> Option<[[Axis; 2]; 2]> {
        let axes = |length| axes(length, self.same_padding);
        Some([axes(height)?, axes(width)?])
    }

    /// Applies the stem: `[batch, 3, H, W] -> [batch, rows, columns, 64]`.
    pub(crate) fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let (batch, _, height, width) = images.dims4()?;
        let Some([rows, columns]) = self.axes([height, width]) else {
            return Err(ModelError::ImageDims {
                expected: "[batch, 3, H, W] with H and W of at least 5",
                found: images.dims().to_vec(),
            });
        };
        let map = images.permute((0, 2, 3, 1))?; // [batch, H, W, 3]
        let map = windows(&map, KERNEL, [rows[0], columns[0]])?;
        let [weight, bias] = self.folded()?;
        let map = linear(&map, &weight, &bias)?.relu()?;
        // After the ReLU, no value is less than the zeros of the padding.
        let taken = windows(&map, POOL, [rows[1], columns[1]])?;
        let (rows, columns) = (rows[1].count, columns[1].count);
        let taken = taken.reshape((batch * rows * columns, POOL * POOL, STEM_CHANNELS))?;
        Ok(taken
            .max(1)?
            .reshape((batch, rows, columns, STEM_CHANNELS))?)
    }

    /// Returns the convolution with the batch norm multiplied in: kernel `[64, 3, 7, 7]` and bias.
    pub(crate) fn convolution(&self) -> candle_core::Result<[Tensor; 2]> {
        let [scale, bias] = self.scale_and_bias()?;
        let kernel = self.kernel.broadcast_mul(&scale.reshape(((), 1, 1, 1))?)?;
        Ok([kernel, bias])
    }

    /// Returns the convolution with the batch norm multiplied in, as a linear layer on windows:
    /// weight `[64, 7 * 7 * 3]` and bias `[64]`.
    fn folded(&self) -> Result<[Tensor; 2]> {
        let [scale, bias] = self.scale_and_bias()?;
        let kernel = self.kernel.permute((0, 2, 3, 1))?;
        let kernel = kernel.reshape((STEM_CHANNELS, KERNEL * KERNEL * 3))?;
        Ok([kernel.broadcast_mul(&scale.unsqueeze(1)?)?, bias])
    }

    /// Returns the batch norm as a factor and a summand of each channel, `[64]` each.
    fn scale_and_bias(&self) -> candle_core::Result<[Tensor; 2]> {
        let deviation = (&self.running_var + EPSILON)?.sqrt()?;
        let scale = self.weight.div(&deviation)?;
        let bias = (&self.bias - (&self.running_mean * &scale)?)?;
        Ok([scale, bias])
    }
}

/// Returns the windows of convolution and pooling along `length` pixels; `None` if there are too
/// few. `same_padding` is that of the authors' model.
fn axes(length: usize, same_padding: bool) -> Option<[Axis; 2]> {
    if length == 0 {
        return None;
    }
    if same_padding {
        let convolution = Axis::same(length, KERNEL);
        return Some([convolution, Axis::same(convolution.count, POOL)]);
    }
    let convolution = Axis::padded(length, KERNEL, PADDING)?;
    Some([convolution, Axis::padded(convolution.count, POOL, 0)?])
}

/// Returns the number of rows and of columns of the output for square images of `side` pixels, as
/// transformers pads them, and the multiply-adds; `None` if there are too few pixels.
pub(crate) fn cost(side: usize) -> Option<(usize, u64)> {
    let [convolution, pool] = axes(side, false)?.map(|axis| axis.count);
    let products = convolution * convolution * KERNEL * KERNEL * 3 * STEM_CHANNELS;
    Some((pool, products as u64))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::{DType, Device, Var};

    use super::*;
    use crate::perceiver_io::testing::tensor;

    fn stem() -> (ConvStem, HashMap<String, Tensor>) {
        let channels = [STEM_CHANNELS];
        let positive = |seed| (tensor(seed, &channels) + 1.5).unwrap();
        let tensors = HashMap::from([
            ("conv.weight".to_string(), tensor(1, &[64, 3, 7, 7])),
            ("batchnorm.weight".to_string(), positive(2)),
            ("batchnorm.bias".to_string(), tensor(3, &channels)),
            ("batchnorm.running_mean".to_string(), tensor(4, &channels)),
            ("batchnorm.running_var".to_string(), positive(5)),
        ]);
        let variables = tensors.iter().map(|(name, tensor)| {
            let variable = Var::from_tensor(tensor).unwrap();
            (name.clone(), variable.as_tensor().clone())
        });
        let variables: HashMap<String, Tensor> = variables.collect();
        let vb = VarBuilder::from_tensors(variables.clone(), DType::F32, &Device::Cpu);
        let stem = ConvStem::new(&PerceiverIoConfig::default(), &vb).unwrap();
        (stem, variables)
    }

    /// Computes the stem by candle's convolution, batch norm by its formula, and pooling.
    fn expected(stem: &ConvStem, images: &Tensor) -> Tensor {
        let column = |tensor: &Tensor| tensor.reshape((1, STEM_CHANNELS, 1, 1)).unwrap();
        let (conv, pool) = if stem.same_padding {
            ([2, 3], [0, 1])
        } else {
            ([3, 3], [0, 0])
        };
        let pad = |map: &Tensor, [before, after]: [usize; 2]| {
            map.pad_with_zeros(2, before, after)
                .and_then(|map| map.pad_with_zeros(3, before, after))
                .unwrap()
        };
        let map = pad(images, conv).conv2d(&stem.kernel, 0, 2, 1, 1).unwrap();
        let map = map.broadcast_sub(&column(&stem.running_mean)).unwrap();
        let deviation = (column(&stem.running_var) + EPSILON).unwrap();
        let map = map.broadcast_div(&deviation.sqrt().unwrap()).unwrap();
        let map = map.broadcast_mul(&column(&stem.weight)).unwrap();
        let map = map.broadcast_add(&column(&stem.bias)).unwrap();
        let map = pad(&map.relu().unwrap(), pool);
        let map = map.max_pool2d_with_stride(POOL, 2).unwrap();
        map.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap()
    }

    #[test]
    fn both_paddings_match_a_padded_convolution_and_pooling() {
        let (mut stem, _) = stem();
        let images = tensor(6, &[2, 3, 20, 28]);
        for (same_padding, grid) in [(false, [4, 6]), (true, [5, 7])] {
            stem.set_same_padding(same_padding);
            assert_eq!(stem.grid([20, 28]), Some(grid));
            let (actual, expected) = (stem.forward(&images).unwrap(), expected(&stem, &images));
            assert_eq!(actual.dims(), expected.dims());
            let distance = (actual - expected).unwrap().abs().unwrap().max_all();
            assert!(distance.unwrap().to_scalar::<f32>().unwrap() < 1e-4);
        }
    }

    /// The gradient along a direction equals the difference quotient.
    #[test]
    fn gradients_match_finite_differences() {
        let (stem, variables) = stem();
        let images = tensor(7, &[1, 3, 12, 10]);
        let grid = stem.grid([12, 10]).unwrap();
        let factors = tensor(8, &[1, grid[0], grid[1], STEM_CHANNELS]);
        let loss = |stem: &ConvStem| {
            let sum = (stem.forward(&images).unwrap() * &factors).unwrap();
            sum.sum_all().unwrap()
        };
        let gradients = loss(&stem).backward().unwrap();
        for (seed, name) in ["conv.weight", "batchnorm.weight", "batchnorm.bias"]
            .into_iter()
            .enumerate()
        {
            let gradient = gradients.get(&variables[name]).unwrap();
            let direction = tensor(10 + seed as u64, gradient.dims());
            let moved = |step: f64| {
                let mut tensors = variables.clone();
                let value = (&variables[name] + (&direction * step).unwrap()).unwrap();
                tensors.insert(name.to_string(), value.detach());
                let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
                let stem = ConvStem::new(&PerceiverIoConfig::default(), &vb).unwrap();
                f64::from(loss(&stem).to_scalar::<f32>().unwrap())
            };
            let step = 1e-3;
            let expected = (moved(step) - moved(-step)) / (2.0 * step);
            let actual = (gradient * &direction).unwrap().sum_all().unwrap();
            let actual = f64::from(actual.to_scalar::<f32>().unwrap());
            assert!(
                (actual - expected).abs() < 0.02 * expected.abs().max(1.0),
                "{name}: {actual}, not {expected}"
            );
        }
    }

    #[test]
    fn images_that_are_too_small_are_rejected() {
        let (stem, _) = stem();
        let error = stem.forward(&tensor(1, &[1, 3, 4, 30])).unwrap_err();
        assert!(error.to_string().contains("at least 5"), "{error}");
        assert!(stem.forward(&tensor(1, &[1, 3, 5, 5])).is_ok());
    }
}
