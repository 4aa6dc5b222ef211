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
