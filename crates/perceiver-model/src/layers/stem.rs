//! Optional convolutional stem: turns images into smaller feature maps with more channels, from
//! which patches are cut. The example has none.
//!
//! Each layer is a 3 x 3 convolution that halves height and width, a layer norm over channels and a
//! GELU. A few convolutions make transformers learn faster and more stably (Xiao et al., "Early
//! convolutions help transformers see better", 2021, with batch norms; layer norms make an image's
//! result independent of its batch). A convolution halves with stride 2, or by max pooling after a
//! convolution at every point, as in Keller Jordan's networks for CIFAR-10 ("94% on CIFAR-10 in
//! 3.29 seconds on a single GPU", 2024).
//!
//! Residual blocks may follow each layer: `x + GELU(LN(convolution(x)))`.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use perceiver_ops::{Mode, add_dropout, conv2d, gelu, im2col, max_pool};

use crate::config::PerceiverConfig;
use crate::layers::{Dense, LayerNorm};

/// Height and width of the convolution kernel.
pub(crate) const KERNEL: usize = 3;

/// The factor by which each layer reduces height and width.
pub(crate) const STRIDE: usize = 2;

/// A convolution and its layer norm.
#[derive(Debug, Clone)]
struct Convolution {
    convolution: Dense,
    norm: LayerNorm,
}

impl Convolution {
    fn new(channels: usize, units: usize, epsilon: f64, vb: &VarBuilder) -> Result<Self> {
        let inputs = KERNEL * KERNEL * channels;
        Ok(Self {
            convolution: Dense::new(inputs, units, &vb.pp("convolution"))?,
            norm: LayerNorm::new(units, epsilon, &vb.pp("norm"))?,
        })
    }

    /// Convolves at every point: `[batch, H, W, channels] -> [batch, H, W, units]`.
    fn at_every_point(&self, map: &Tensor) -> Result<Tensor> {
        let [weight, bias] = self.convolution.tensors();
        conv2d(map, weight, bias, KERNEL)
    }

    /// Convolves at every other point: `[batch, H, W, channels] -> [batch, H / 2, W / 2, units]`.
    fn with_stride(&self, map: &Tensor) -> Result<Tensor> {
        self.convolution.forward(&im2col(map, KERNEL, STRIDE)?)
    }

    fn activation(&self, map: &Tensor) -> Result<Tensor> {
        gelu(&self.norm.forward(map)?)
    }
}

/// A layer that halves height and width, and the residual blocks that follow it.
#[derive(Debug, Clone)]
struct Layer {
    first: Convolution,
    blocks: Vec<Convolution>,
}

/// A sequence of stem layers.
#[derive(Debug, Clone)]
pub(crate) struct Stem {
    layers: Vec<Layer>,
    pools: bool,
}

impl Stem {
    pub(crate) fn new(config: &PerceiverConfig, vb: &VarBuilder) -> Result<Self> {
        let epsilon = config.layer_norm_epsilon;
        let mut channels = config.channels;
        let mut layers = Vec::with_capacity(config.stem_units.len());
        for (index, &units) in config.stem_units.iter().enumerate() {
            let vb = vb.pp(index);
            let block =
                |block: usize| Convolution::new(units, units, epsilon, &vb.pp("blocks").pp(block));
            layers.push(Layer {
                first: Convolution::new(channels, units, epsilon, &vb)?,
                blocks: (0..config.stem_blocks).map(block).collect::<Result<_>>()?,
            });
            channels = units;
        }
        Ok(Self {
            layers,
            pools: config.stem_pooling,
        })
    }

    /// Returns whether there is no layer, so that images stay unchanged.
    pub(crate) fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Applies the stem: `[batch, channels, H, W] -> [batch, H / 2^layers, W / 2^layers, units]`.
    pub(crate) fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let mut map = images.permute((0, 2, 3, 1))?; // [batch, H, W, channels]
        for layer in &self.layers {
            let halved = if self.pools {
                max_pool(&layer.first.at_every_point(&map)?)?
            } else {
                layer.first.with_stride(&map)?
            };
            map = layer.first.activation(&halved)?; // [batch, H / 2, W / 2, units]
            for block in &layer.blocks {
                let branch = block.activation(&block.at_every_point(&map)?)?;
                map = add_dropout(&map, &branch, 0.0, Mode::Inference)?;
            }
        }
        Ok(map)
    }
}

/// The sizes of a stem layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LayerCost {
    /// Height and width of its output.
    pub(crate) side: usize,
    /// Channels of its input.
    channels: usize,
    /// Channels of its output.
    pub(crate) units: usize,
    /// Height and width of the map that its first convolution computes.
    convolved: usize,
    blocks: usize,
}

impl LayerCost {
    /// Returns the multiply-adds of an image, rounded if they are more than 2^53.
    pub(crate) fn multiply_adds(self) -> f64 {
        let product = |side: usize, channels: usize| {
            (side as f64 * KERNEL as f64).powi(2) * channels as f64 * self.units as f64
        };
        let blocks = self.blocks as f64 * product(self.side, self.units);
        product(self.convolved, self.channels) + blocks
    }
}

/// Returns the sizes of all layers.
pub(crate) fn costs(config: &PerceiverConfig) -> impl Iterator<Item = LayerCost> + '_ {
    let (mut side, mut channels) = (config.image_size, config.channels);
    config.stem_units.iter().map(move |&units| {
        let above = side;
        side /= STRIDE;
        let cost = LayerCost {
            side,
            channels,
            units,
            convolved: if config.stem_pooling { above } else { side },
            blocks: config.stem_blocks,
        };
        channels = units;
        cost
    })
}

#[cfg(test)]
mod tests {
    use candle_core::{D, DType, Device};
    use candle_nn::VarMap;

    use super::*;

    fn config(stem_pooling: bool) -> PerceiverConfig {
        PerceiverConfig {
            image_size: 8,
            stem_units: vec![4, 20],
            stem_pooling,
            stem_blocks: 2,
            patch_size: 1,
            ..PerceiverConfig::default()
        }
    }

    /// Computes the stem by candle's convolutions and pooling, and layer norm by its formula, on
    /// maps `[batch, channels, H, W]`.
    fn expected(config: &PerceiverConfig, vb: &VarBuilder, images: &Tensor) -> Tensor {
        let layer = |name: String, map: &Tensor, units: usize, stride: usize| {
            let channels = map.dim(1).unwrap();
            let vb = vb.pp(name);
            let weight = vb.get((units, 9 * channels), "convolution.weight").unwrap();
            let weight = weight.reshape((units, 3, 3, channels)).unwrap();
            let weight = weight.permute((0, 3, 1, 2)).unwrap();
            map.conv2d(&weight.contiguous().unwrap(), 1, stride, 1, 1)
                .unwrap()
        };
        let activation = |map: &Tensor| {
            // Biases are 0, gains 1 and shifts 0 at the start.
            let map = map.permute((0, 2, 3, 1)).unwrap();
            let centred = map.broadcast_sub(&map.mean_keepdim(D::Minus1).unwrap());
            let centred = centred.unwrap();
            let variance = centred.sqr().unwrap().mean_keepdim(D::Minus1).unwrap();
            let deviation = (variance + config.layer_norm_epsilon).unwrap().sqrt();
            let map = centred.broadcast_div(&deviation.unwrap()).unwrap();
            map.gelu_erf().unwrap().permute((0, 3, 1, 2)).unwrap()
        };
        let mut map = images.clone();
        for (index, &units) in config.stem_units.iter().enumerate() {
            let halved = if config.stem_pooling {
                let map = layer(index.to_string(), &map, units, 1);
                map.max_pool2d(2).unwrap()
            } else {
                layer(index.to_string(), &map, units, 2)
            };
            map = activation(&halved).contiguous().unwrap();
            for block in 0..config.stem_blocks {
                let name = format!("{index}.blocks.{block}");
                map = (&map + activation(&layer(name, &map, units, 1))).unwrap();
            }
        }
        map.permute((0, 2, 3, 1)).unwrap()
    }

    #[test]
    fn both_ways_to_halve_match_candles_convolutions() {
        let images = Tensor::randn(0f32, 1.0, (2, 3, 8, 8), &Device::Cpu).unwrap();
        for pooling in [false, true] {
            let (config, variables) = (config(pooling), VarMap::new());
            let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
            let stem = Stem::new(&config, &vb).unwrap();
            let actual = stem.forward(&images).unwrap();
            let expected = expected(&config, &vb, &images);
            assert_eq!(actual.dims(), [2, 2, 2, 20]);
            let distance = (actual - expected).unwrap().abs().unwrap().max_all();
            assert!(distance.unwrap().to_scalar::<f32>().unwrap() < 1e-3);
        }
    }

    #[test]
    fn multiply_adds_count_every_convolution() {
        let of = |pooling: bool| -> Vec<f64> {
            let config = config(pooling);
            costs(&config).map(LayerCost::multiply_adds).collect()
        };
        let blocks = [2 * 4 * 4 * 9 * 4 * 4, 2 * 2 * 2 * 9 * 20 * 20];
        let halving = [4 * 4 * 9 * 3 * 4, 2 * 2 * 9 * 4 * 20];
        let sum = |factor: usize| [0, 1].map(|at| (factor * halving[at] + blocks[at]) as f64);
        assert_eq!(of(false), sum(1));
        assert_eq!(of(true), sum(4));
    }
}
