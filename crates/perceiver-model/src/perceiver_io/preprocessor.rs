//! Input preprocessors of Perceiver IO: images to tokens, features concatenated with positions.

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use perceiver_ops::{concat_shared, linear, reshape};

use crate::error::{ModelError, Result};
use crate::layers::Dense;
use crate::perceiver_io::config::PerceiverIoConfig;
use crate::perceiver_io::conv_stem::ConvStem;
use crate::perceiver_io::fourier_positions::{WIDTH, fourier_positions};
use crate::perceiver_io::kind::{InputKind, LEARNED_CHANNELS};
use crate::perceiver_io::learned_positions::LearnedPositions;

/// The resolution of training, to which the frequencies of Fourier positions belong: pixels of an
/// image.
const PIXEL_RESOLUTION: usize = 224;

/// The resolution of training after the convolutional stem.
const STEM_RESOLUTION: usize = 56;

/// An input preprocessor with its weights.
#[derive(Debug, Clone)]
pub(crate) enum Preprocessor {
    /// Features by a 1 x 1 convolution, learned positions.
    Learned {
        /// Its weight is `[256, 3, 1, 1]`.
        convolution: Dense,
        positions: LearnedPositions,
    },
    /// Pixel values, Fourier positions.
    Fourier,
    /// Features by a convolutional stem, Fourier positions.
    Conv(ConvStem),
}

impl Preprocessor {
    pub(crate) fn new(
        config: &PerceiverIoConfig,
        kind: InputKind,
        vb: &VarBuilder,
    ) -> Result<Self> {
        Ok(match kind {
            InputKind::Learned => {
                let features = vb.pp("convnet_1x1");
                let kernel = (LEARNED_CHANNELS, 3, 1, 1);
                let bias = Init::Const(0.0);
                Self::Learned {
                    convolution: Dense {
                        weight: features.get_with_hints(kernel, "weight", config.initializer())?,
                        bias: features.get_with_hints(LEARNED_CHANNELS, "bias", bias)?,
                    },
                    positions: LearnedPositions::new(config, vb)?,
                }
            }
            InputKind::Fourier => Self::Fourier,
            InputKind::Conv => Self::Conv(ConvStem::new(config, &vb.pp("convnet"))?),
        })
    }

    /// Returns a copy for inference only, which computes positions once, not in every pass, if they
    /// are learned.
    pub(crate) fn folded(&self) -> Self {
        match self {
            Self::Learned {
                convolution,
                positions,
            } => Self::Learned {
                convolution: convolution.clone(),
                positions: positions.folded(),
            },
            other => other.clone(),
        }
    }

    /// Sets the padding of convolution and pooling to that of the authors' model.
    pub(crate) fn set_same_padding(&mut self, same_padding: bool) {
        if let Self::Conv(stem) = self {
            stem.set_same_padding(same_padding);
        }
    }

    /// Returns the rows and columns of tokens for images of this height and width; `None` if the
    /// model does not take them.
    pub(crate) fn grid(&self, size: [usize; 2]) -> Option<[usize; 2]> {
        match self {
            Self::Learned { .. } | Self::Fourier => (!size.contains(&0)).then_some(size),
            Self::Conv(stem) => stem.grid(size),
        }
    }

    /// Computes the tokens of images: `[batch, 3, H, W] -> [batch, tokens, token_width]`.
    pub(crate) fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let &[_, 3, height, width] = images.dims() else {
            return Err(ModelError::ImageDims {
                expected: "[batch, 3, H, W]",
                found: images.dims().to_vec(),
            });
        };
        let features = match self {
            Self::Learned { convolution, .. } => {
                let weight = reshape(&convolution.weight, (LEARNED_CHANNELS, 3))?;
                linear(&pixels(images)?, &weight, &convolution.bias)?
            }
            Self::Fourier => pixels(images)?,
            Self::Conv(stem) => {
                let map = stem.forward(images)?; // [batch, rows, columns, 64]
                map.flatten(1, 2)?
            }
        };
        let Some(grid) = self.grid([height, width]) else {
            return Err(ModelError::ImageDims {
                expected: "[batch, 3, H, W] with pixels",
                found: images.dims().to_vec(),
            });
        };
        let positions = self.positions(grid, images)?; // [tokens, width]
        Ok(concat_shared(&features, &positions)?)
    }

    /// Returns kernel and bias of the stem's convolution with the batch norm multiplied in.
    pub(crate) fn stem_convolution(&self) -> candle_core::Result<Option<[Tensor; 2]>> {
        match self {
            Self::Conv(stem) => stem.convolution().map(Some),
            Self::Learned { .. } | Self::Fourier => Ok(None),
        }
    }

    /// Returns the positions of the tokens of images of a height and width, `[tokens, width]`, of
    /// the type and on the device of `like`.
    pub(crate) fn positions_of(&self, size: [usize; 2], like: &Tensor) -> Result<Tensor> {
        let Some(grid) = self.grid(size) else {
            return Err(ModelError::ImageDims {
                expected: "[batch, 3, H, W] with pixels",
                found: vec![1, 3, size[0], size[1]],
            });
        };
        self.positions(grid, like)
    }

    /// Returns the positions of a grid of tokens, `[tokens, width]`.
    fn positions(&self, [rows, columns]: [usize; 2], like: &Tensor) -> Result<Tensor> {
        let resolution = match self {
            Self::Learned { positions, .. } => return Ok(positions.rows([rows, columns])?),
            Self::Fourier => PIXEL_RESOLUTION,
            Self::Conv(_) => STEM_RESOLUTION,
        };
        let positions = fourier_positions([rows, columns], resolution);
        let positions = Tensor::from_vec(positions, (rows * columns, WIDTH), like.device())?;
        Ok(positions.to_dtype(like.dtype())?)
    }
}

/// Returns the values of every pixel, row by row: `[batch, 3, H, W] -> [batch, H * W, 3]`.
fn pixels(images: &Tensor) -> Result<Tensor> {
    Ok(images.flatten_from(2)?.transpose(1, 2)?.contiguous()?)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn fourier_tokens_are_pixels_then_positions() {
        let images = Tensor::arange(0f32, 24.0, &Device::Cpu).unwrap();
        let images = images.reshape((2, 3, 2, 2)).unwrap();
        let tokens = Preprocessor::Fourier.forward(&images).unwrap();
        assert_eq!(tokens.dims(), [2, 4, 3 + WIDTH]);
        let tokens = tokens.to_vec3::<f32>().unwrap();
        assert_eq!(tokens[1][2][..5], [14.0, 18.0, 22.0, 1.0, -1.0]);
    }

    #[test]
    fn images_of_other_shapes_are_rejected() {
        let images = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
        for dims in [&[1, 4, 8, 8][..], &[3, 8, 8], &[1, 3, 0, 8]] {
            assert!(
                Preprocessor::Fourier.forward(&images(dims)).is_err(),
                "{dims:?}"
            );
        }
    }
}
