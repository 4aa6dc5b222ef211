//! A convolutional stem, which the example does not have: images become smaller maps of richer points before they are cut into
//! patches.
//!
//! Each layer is a convolution of 3 x 3 with stride 2, a layer norm over channels, a GELU. A few convolutions in front make
//! transformers learn faster and more stably (Xiao et al., "Early convolutions help transformers see better", 2021, with
//! batch norms; layer norms make a picture's result independent of its batch).

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use perceiver_ops::{gelu, neighbourhoods};

use crate::config::PerceiverConfig;
use crate::layers::{Dense, LayerNorm};

/// Height and width of a convolution.
pub(crate) const KERNEL: usize = 3;

/// By what every layer divides height and width.
pub(crate) const STRIDE: usize = 2;

#[derive(Debug, Clone)]
struct Layer {
    convolution: Dense,
    norm: LayerNorm,
}

/// The layers in a row.
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

    /// Whether there is no layer, and images stay as they are.
    pub(crate) fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// `[batch, channels, H, W] -> [batch, H / 2^layers, W / 2^layers, units]`
    pub(crate) fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let map = images.permute((0, 2, 3, 1))?; // [batch, H, W, channels]
        self.layers.iter().try_fold(map, |map, layer| {
            let neighbourhoods = neighbourhoods(&map, KERNEL, STRIDE)?; // [batch, H / 2, W / 2, 9 * channels]
            gelu(
                &layer
                    .norm
                    .forward(&layer.convolution.forward(&neighbourhoods)?)?,
            )
        })
    }
}
