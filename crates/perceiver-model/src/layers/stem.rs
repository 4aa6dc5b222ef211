//! Optional convolutional stem: turns images into smaller feature maps with more channels, from
//! which patches are cut. The example has none.
//!
//! Each layer is a 3 x 3 convolution with stride 2, a layer norm over channels and a GELU. A few
//! convolutions make transformers learn faster and more stably (Xiao et al., "Early convolutions
//! help transformers see better", 2021, with batch norms; layer norms make an image's result
//! independent of its batch).

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use perceiver_ops::{gelu, im2col};

use crate::config::PerceiverConfig;
use crate::layers::{Dense, LayerNorm};

/// Height and width of the convolution kernel.
pub(crate) const KERNEL: usize = 3;

/// The factor by which each layer reduces height and width.
pub(crate) const STRIDE: usize = 2;

#[derive(Debug, Clone)]
struct Layer {
    convolution: Dense,
    norm: LayerNorm,
}

/// A sequence of stem layers.
#[derive(Debug, Clone)]
pub(crate) struct Stem {
    layers: Vec<Layer>,
}

impl Stem {
    pub(crate) fn new(config: &PerceiverConfig, vb: &VarBuilder) -> Result<Self> {
        let mut channels = config.channels;
        let mut layers = Vec::with_capacity(config.stem_units.len());
        for (index, &units) in config.stem_units.iter().enumerate() {
            let vb = vb.pp(index);
            let inputs = KERNEL * KERNEL * channels;
            layers.push(Layer {
                convolution: Dense::new(inputs, units, &vb.pp("convolution"))?,
                norm: LayerNorm::new(units, config.layer_norm_epsilon, &vb.pp("norm"))?,
            });
            channels = units;
        }
        Ok(Self { layers })
    }

    /// Returns whether there is no layer, so that images stay unchanged.
    pub(crate) fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Applies the stem: `[batch, channels, H, W] -> [batch, H / 2^layers, W / 2^layers, units]`.
    pub(crate) fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let map = images.permute((0, 2, 3, 1))?; // [batch, H, W, channels]
        self.layers.iter().try_fold(map, |map, layer| {
            let im2col = im2col(&map, KERNEL, STRIDE)?; // [batch, H / 2, W / 2, 9 * channels]
            gelu(&layer.norm.forward(&layer.convolution.forward(&im2col)?)?)
        })
    }
}
