//! The model configuration: all hyperparameters, with the names and defaults of the Keras example.

mod architecture;
pub(crate) mod foreign;
pub(crate) mod sharing;

use serde::{Deserialize, Serialize};

use crate::error::{ModelError, Result};
use crate::layers::stem::{self, LayerCost};

/// The sharing of weights between iterations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sharing {
    /// All iterations share their weights, as in the Keras example.
    #[default]
    All,
    /// All share, but the first cross-attention has its own: the paper's `ImageNet` model, where
    /// sharing it was unstable.
    AllButFirstCross,
    /// Every iteration has its own weights.
    None,
}

/// The position encoding of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Positions {
    /// A learned vector per position, as in the Keras example.
    #[default]
    Learned,
    /// Fourier features of the coordinates, concatenated with the patch before its projection, as
    /// in the paper.
    Fourier,
}

/// The maximum image side, in pixels.
pub(crate) const MOST_PIXELS: usize = 4096;

/// The maximum width of tokens, latents, heads and layers, except the last layer of a classifier.
pub(crate) const MOST_WIDTH: usize = 65_536;

/// The maximum number of classes, and the maximum width of the head's layers.
pub(crate) const MOST_CLASSES: usize = 1 << 20;

/// The maximum number of layers in a list.
const MOST_LAYERS: usize = 32;

/// The maximum number of heads, blocks, iterations or image channels.
pub(crate) const MOST_REPEATS: usize = 1024;

/// The maximum number of blocks over all iterations.
pub(crate) const MOST_DEPTH: usize = 4096;

/// The maximum number of Fourier frequencies per direction.
const MOST_BANDS: usize = 4096;

/// The maximum number of values of a weight, or of an activation per image: 4 GiB in `f32`.
const MOST_VALUES: usize = 1 << 30;

/// The maximum number of values of the Fourier feature table, which is built with the model and not
/// saved: 512 MiB in `f32`.
const MOST_FEATURES: usize = 1 << 27;

/// The maximum multiply-adds of one image's forward pass, roughly: hours on a machine without a
/// GPU.
const MOST_MULTIPLY_ADDS: f64 = 1e15;

/// The architecture of a [`Perceiver`](crate::Perceiver). The default is that of the Keras example:
/// 9,697,637 parameters on CIFAR-100.
///
/// ```
/// use perceiver_model::PerceiverConfig;
///
/// let config = PerceiverConfig { image_size: 32, patch_size: 4, ..Default::default() };
/// config.validate()?;
/// assert_eq!((config.num_patches(), config.patch_len()), (64, 48));
/// # Ok::<(), perceiver_model::ModelError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PerceiverConfig {
    /// Height and width of the model's input images in pixels, after resizing.
    pub image_size: usize,
    /// Number of colour channels.
    pub channels: usize,
    /// Channels of each stem layer: a 3 x 3 convolution that halves height and width, a layer norm
    /// over channels, a GELU. The example has no stem.
    pub stem_units: Vec<usize>,
    /// Whether a stem layer convolves at every point and then takes the maximum of every 2 x 2
    /// points, instead of convolving at every other point. No effect without a stem.
    pub stem_pooling: bool,
    /// Number of residual blocks after each stem layer: a 3 x 3 convolution, a layer norm over
    /// channels and a GELU, added to their input. No effect without a stem.
    pub stem_blocks: usize,
    /// Height and width of a patch, in pixels or in points of the stem's output; 1 makes each a
    /// token.
    pub patch_size: usize,
    /// Position encoding: learned or fourier.
    pub positions: Positions,
    /// Number of Fourier frequencies per direction, evenly spaced from one wave across the image to
    /// the Nyquist frequency.
    pub fourier_bands: usize,
    /// Number of latents, not their width. (The example calls it the latent dimension, after the
    /// first axis of the array.) Recipes accept the alias `num_latents`.
    pub latent_dim: usize,
    /// Standard deviation of the initial latents: 0.05 in Keras's `random_normal`, 0.02 in the
    /// paper.
    pub latent_deviation: f64,
    /// Width of tokens and latents. Recipes accept the alias `d_latents`.
    pub projection_dim: usize,
    /// Number of cross-attention heads, which split `projection_dim`. The example has one; with
    /// more, an output projection follows.
    pub num_cross_heads: usize,
    /// Number of self-attention heads in the latent transformer.
    pub num_heads: usize,
    /// Width of queries, keys and values of one head; 0 means `projection_dim`, as in the example,
    /// whose eight heads together are eight times as wide as the model.
    pub head_dim: usize,
    /// Number of blocks in the latent transformer.
    pub num_transformer_blocks: usize,
    /// Number of iterations of cross-attention and latent transformer.
    pub num_iterations: usize,
    /// Number of iterations, from the first on, that have a cross-attention; 0 means all, as in the
    /// example.
    pub num_cross_attends: usize,
    /// Weight sharing between iterations: all, all-but-first-cross or none.
    pub sharing: Sharing,
    /// Widths of the feed-forward layers; the last equals `projection_dim`, for the residual.
    pub ffn_units: Vec<usize>,
    /// Whether the mean over latents is normalized before the head, as in vision transformers but
    /// not in the example.
    pub norm_pooled: bool,
    /// Widths of the classification head's layers; the last is the number of classes.
    pub classifier_units: Vec<usize>,
    /// Dropout rate after each feed-forward network, including the head.
    pub dropout_rate: f64,
    /// Dropout rate of the attention weights.
    pub attention_dropout: f64,
    /// Initial value of the learned scale of cross-attention logits. The example starts at 1, where
    /// the softmax over dot products of 256 terms is almost a hard maximum; 0 means the usual
    /// `1 / sqrt(head width)`.
    pub cross_attention_scale: f64,
    /// Epsilon of layer norms, added to the variance.
    pub layer_norm_epsilon: f64,
}

impl Default for PerceiverConfig {
    fn default() -> Self {
        Self {
            image_size: 64,
            channels: 3,
            stem_units: Vec::new(),
            stem_pooling: false,
            stem_blocks: 0,
            patch_size: 2,
            positions: Positions::Learned,
            fourier_bands: 16,
            latent_dim: 256,
            latent_deviation: 0.05,
            projection_dim: 256,
            num_cross_heads: 1,
            num_heads: 8,
            head_dim: 0,
            num_transformer_blocks: 4,
            num_iterations: 2,
            num_cross_attends: 0,
            sharing: Sharing::All,
            ffn_units: vec![256, 256],
            norm_pooled: false,
            classifier_units: vec![256, 100],
            dropout_rate: 0.2,
            attention_dropout: 0.1,
            cross_attention_scale: 1.0,
            layer_norm_epsilon: 1e-6,
        }
    }
}

impl PerceiverConfig {
    /// Returns the number of tokens per row, which equals the number of rows.
    pub fn tokens_per_side(&self) -> usize {
        (self.image_size >> self.stem_units.len()) / self.patch_size
    }

    /// Returns the number of tokens: patches of the image or of the stem's output.
    pub fn num_patches(&self) -> usize {
        self.tokens_per_side().pow(2)
    }

    /// Returns the number of values in a patch: `patch_size * patch_size * channels`, with the
    /// stem's channels if there is one.
    pub fn patch_len(&self) -> usize {
        self.patch_size.pow(2) * self.stem_units.last().unwrap_or(&self.channels)
    }

    /// Returns the number of iterations with a cross-attention.
    pub fn cross_attends(&self) -> usize {
        match self.num_cross_attends {
            0 => self.num_iterations,
            attends => attends,
        }
    }

    /// Returns the index of an iteration's cross-attention weights; `None` if it has no
    /// cross-attention.
    pub fn cross_attention_set(&self, iteration: usize) -> Option<usize> {
        (iteration < self.cross_attends()).then_some(match self.sharing {
            Sharing::All => 0,
            Sharing::AllButFirstCross => iteration.min(1),
            Sharing::None => iteration,
        })
    }

    /// Returns the index of an iteration's latent transformer weights.
    pub fn transformer_set(&self, iteration: usize) -> usize {
        match self.sharing {
            Sharing::None => iteration,
            Sharing::All | Sharing::AllButFirstCross => 0,
        }
    }

    /// Returns the prefix of the names of a cross-attention's weights, by the index that
    /// [`PerceiverConfig::cross_attention_set`] returns: `cross_attention`, `cross_attention_2` and
    /// so on.
    pub fn cross_attention_name(set: usize) -> String {
        sharing::name("cross_attention", set)
    }

    /// Returns the prefix of the names of a latent transformer's weights, by the index that
    /// [`PerceiverConfig::transformer_set`] returns.
    pub fn transformer_name(set: usize) -> String {
        sharing::name("transformer", set)
    }

    /// Returns the width of a cross-attention head.
    pub fn cross_head_width(&self) -> usize {
        self.projection_dim / self.num_cross_heads
    }

    /// Returns the initial value of the learned scale of cross-attention logits.
    pub fn first_cross_scale(&self) -> f64 {
        if self.cross_attention_scale == 0.0 {
            1.0 / (self.cross_head_width() as f64).sqrt()
        } else {
            self.cross_attention_scale
        }
    }

    /// Returns the number of classes: the width of the head's last layer.
    pub fn num_classes(&self) -> usize {
        self.classifier_units.last().copied().unwrap_or(0)
    }

    /// Returns the width of a self-attention head.
    pub fn head_width(&self) -> usize {
        if self.head_dim == 0 {
            self.projection_dim
        } else {
            self.head_dim
        }
    }

    /// Returns the architecture with another number of classes.
    #[must_use]
    pub fn with_num_classes(mut self, classes: usize) -> Self {
        if let Some(last) = self.classifier_units.last_mut() {
            *last = classes;
        }
        self
    }

    /// Checks that every field is valid, that the fields agree, and that no array is too large: in
    /// a valid configuration no product of sizes overflows, and only the weights take much memory.
    ///
    /// # Errors
    /// [`ModelError::Config`], with the names and values of the fields.
    pub fn validate(&self) -> Result<()> {
        self.check_sizes()?;
        let halvings = u32::try_from(self.stem_units.len()).unwrap_or(u32::MAX);
        let token = 1usize
            .checked_shl(halvings)
            .and_then(|side| side.checked_mul(self.patch_size));
        if token.is_none_or(|token| !self.image_size.is_multiple_of(token)) {
            return Err(match self.stem_units.len() {
                0 => disagreement(
                    "image_size and patch_size",
                    "an image size that is a multiple of the patch size",
                    format!("{} and {}", self.image_size, self.patch_size),
                ),
                layers => disagreement(
                    "image_size, stem_units and patch_size",
                    "an image size that can be halved by every layer of the stem and then cut into patches",
                    format!(
                        "{}, {layers} layers and {}",
                        self.image_size, self.patch_size
                    ),
                ),
            });
        }
        if !self.projection_dim.is_multiple_of(self.num_cross_heads) {
            return Err(disagreement(
                "projection_dim and num_cross_heads",
                "a width that is a multiple of the number of heads",
                format!("{} and {}", self.projection_dim, self.num_cross_heads),
            ));
        }
        if self.num_cross_attends > self.num_iterations {
            return Err(disagreement(
                "num_cross_attends and num_iterations",
                "no more cross attentions than iterations",
                format!("{} and {}", self.num_cross_attends, self.num_iterations),
            ));
        }
        if self.ffn_units.last() != Some(&self.projection_dim) {
            return Err(disagreement(
                "ffn_units and projection_dim",
                "the last of ffn_units equal to projection_dim, for the residual connection",
                format!("{:?} and {}", self.ffn_units, self.projection_dim),
            ));
        }
        self.check_rates()?;
        self.check_products()
    }

    /// Checks every size against its own bounds.
    fn check_sizes(&self) -> Result<()> {
        let sizes = [
            ("image_size", self.image_size, 1, MOST_PIXELS),
            ("channels", self.channels, 1, MOST_REPEATS),
            ("stem_blocks", self.stem_blocks, 0, MOST_REPEATS),
            ("patch_size", self.patch_size, 1, MOST_PIXELS),
            ("latent_dim", self.latent_dim, 1, MOST_WIDTH),
            ("projection_dim", self.projection_dim, 1, MOST_WIDTH),
            ("num_cross_heads", self.num_cross_heads, 1, MOST_REPEATS),
            ("num_heads", self.num_heads, 1, MOST_REPEATS),
            ("head_dim", self.head_dim, 0, MOST_WIDTH),
            (
                "num_transformer_blocks",
                self.num_transformer_blocks,
                0,
                MOST_REPEATS,
            ),
            ("num_iterations", self.num_iterations, 1, MOST_REPEATS),
            ("fourier_bands", self.fourier_bands, 1, MOST_BANDS),
        ];
        for (field, size, least, most) in sizes {
            if size < least {
                return Err(disagreement(field, format!("at least {least}"), size));
            }
            if size > most {
                return Err(disagreement(field, format!("at most {most}"), size));
            }
        }
        let lists = [
            ("stem_units", &self.stem_units, 0, MOST_WIDTH),
            ("ffn_units", &self.ffn_units, 1, MOST_WIDTH),
            ("classifier_units", &self.classifier_units, 1, MOST_CLASSES),
        ];
        for (field, units, least, widest) in lists {
            check_layers(field, units, least, widest)?;
        }
        Ok(())
    }

    /// Checks that every weight and every activation of one image fits into memory, and that a
    /// forward pass ends in reasonable time. Expects sizes within their bounds.
    fn check_products(&self) -> Result<()> {
        let (tokens, latents, width) = (self.num_patches(), self.latent_dim, self.projection_dim);
        let (heads, inner) = (self.num_heads, self.num_heads * self.head_width());
        let patches = "image_size, patch_size and projection_dim";
        let latent_array = "latent_dim and projection_dim";
        require_room(
            "image_size and channels",
            &[self.image_size, self.image_size, self.channels],
        )?;
        self.check_stem()?;
        require_room(patches, &[tokens, width])?;
        require_room(patches, &[self.patch_len(), width])?;
        require_room(latent_array, &[latents, width])?;
        require_room("projection_dim", &[width, width])?;
        require_room("num_heads, head_dim and projection_dim", &[inner, width])?;
        require_room("num_heads, head_dim and latent_dim", &[inner, latents])?;
        require_room("num_heads and latent_dim", &[heads, latents, latents])?;
        let cross = [self.num_cross_heads, latents, tokens];
        require_room("num_cross_heads, latent_dim and image_size", &cross)?;
        // Absorbed attention may have weight products instead, one matrix per head.
        let absorbed = [self.num_cross_heads, width, width];
        require_room("num_cross_heads and projection_dim", &absorbed)?;
        for (field, units, rows) in [
            ("ffn_units", &self.ffn_units, latents),
            ("classifier_units", &self.classifier_units, 1),
        ] {
            let inputs = std::iter::once(&width).chain(units);
            for (&inputs, &outputs) in inputs.zip(units) {
                require_room(field, &[inputs, outputs])?;
                require_room(field, &[rows, outputs])?;
            }
        }
        if self.positions == Positions::Fourier {
            let features = [tokens, 2 * (1 + 2 * self.fourier_bands)];
            let field = "image_size, patch_size and fourier_bands";
            require_at_most(MOST_FEATURES, field, &features)?;
        }
        let depth = [self.num_iterations, self.num_transformer_blocks];
        if depth[0] * depth[1] > MOST_DEPTH {
            return Err(disagreement(
                "num_iterations and num_transformer_blocks",
                format!("at most {MOST_DEPTH} blocks in all iterations together"),
                format!("{} times {}", depth[0], depth[1]),
            ));
        }
        self.check_time()
    }

    fn check_stem(&self) -> Result<()> {
        let (mut side, mut channels) = (self.image_size, self.channels);
        for &units in &self.stem_units {
            let outputs = if self.stem_pooling { side } else { side / 2 };
            side /= 2;
            let field = "image_size and stem_units";
            require_room(field, &[outputs, outputs, 9, channels])?;
            require_room(field, &[outputs, outputs, units])?;
            require_room("stem_units", &[9, channels, units])?;
            if self.stem_blocks > 0 {
                require_room(field, &[side, side, 9, units])?;
                require_room("stem_units", &[9, units, units])?;
            }
            channels = units;
        }
        Ok(())
    }

    /// Estimates in `f64`, which does not overflow; [`Summary`](crate::Summary) has the exact
    /// number.
    fn check_time(&self) -> Result<()> {
        let [tokens, latents, width, inner] = [
            self.num_patches(),
            self.latent_dim,
            self.projection_dim,
            self.num_heads * self.head_width(),
        ]
        .map(|size| size as f64);
        let inputs = std::iter::once(&self.projection_dim).chain(&self.ffn_units);
        let layers = inputs.zip(&self.ffn_units);
        let ffn = latents * layers.map(|(&i, &o)| i as f64 * o as f64).sum::<f64>();
        let cross = 2.0 * (latents + tokens) * width * width + 2.0 * latents * tokens * width + ffn;
        let block = 4.0 * latents * width * inner + 2.0 * latents * latents * inner + ffn;
        let blocks = self.num_transformer_blocks as f64;
        let stem: f64 = stem::costs(self).map(LayerCost::multiply_adds).sum();
        let found = stem + self.num_iterations as f64 * (cross + blocks * block);
        if found <= MOST_MULTIPLY_ADDS {
            return Ok(());
        }
        Err(disagreement(
            "the sizes together",
            format!("at most {MOST_MULTIPLY_ADDS:.0e} multiply-adds per image"),
            format!("about {found:.0e}"),
        ))
    }

    fn check_rates(&self) -> Result<()> {
        let rates = [
            ("dropout_rate", self.dropout_rate),
            ("attention_dropout", self.attention_dropout),
        ];
        for (field, rate) in rates {
            if !(0.0..1.0).contains(&rate) {
                return Err(disagreement(field, "at least 0 and below 1", rate));
            }
        }
        let factors = [
            ("cross_attention_scale", self.first_cross_scale()),
            ("latent_deviation", self.latent_deviation),
            ("layer_norm_epsilon", self.layer_norm_epsilon),
        ];
        for (field, factor) in factors {
            // The weights are `f32`.
            if !((factor as f32).is_finite() && factor > 0.0) {
                return Err(disagreement(field, "a finite number above 0", factor));
            }
        }
        Ok(())
    }
}

/// Checks the length of a list of layers and their widths.
fn check_layers(field: &'static str, units: &[usize], least: usize, widest: usize) -> Result<()> {
    if units.len() < least || units.contains(&0) {
        let expected = match least {
            0 => "layers at least 1 wide",
            _ => "one or more layers, each at least 1 wide",
        };
        return Err(disagreement(field, expected, format!("{units:?}")));
    }
    if units.len() > MOST_LAYERS {
        let expected = format!("at most {MOST_LAYERS} layers");
        return Err(disagreement(field, expected, units.len()));
    }
    match units.iter().find(|&&width| width > widest) {
        None => Ok(()),
        Some(width) => Err(disagreement(
            field,
            format!("layers at most {widest} wide"),
            width,
        )),
    }
}

/// Checks that an array of these dimensions has at most [`MOST_VALUES`] values.
pub(crate) fn require_room(fields: &'static str, sides: &[usize]) -> Result<()> {
    require_at_most(MOST_VALUES, fields, sides)
}

fn require_at_most(most: usize, fields: &'static str, sides: &[usize]) -> Result<()> {
    let values = sides
        .iter()
        .try_fold(1_usize, |values, &side| values.checked_mul(side));
    if values.is_some_and(|values| values <= most) {
        return Ok(());
    }
    let sides: Vec<String> = sides.iter().map(ToString::to_string).collect();
    Err(disagreement(
        fields,
        format!("an array of at most {most} values"),
        format!("one of {}", sides.join(" x ")),
    ))
}

pub(crate) fn disagreement(
    fields: &'static str,
    expected: impl Into<String>,
    found: impl std::fmt::Display,
) -> ModelError {
    ModelError::Config {
        fields,
        expected: expected.into(),
        found: found.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut PerceiverConfig);
    type SetSize = fn(&mut PerceiverConfig, usize);

    /// Returns the error message for a changed default configuration.
    fn refusal(change: impl FnOnce(&mut PerceiverConfig)) -> String {
        let mut config = PerceiverConfig::default();
        change(&mut config);
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn the_default_is_valid() {
        PerceiverConfig::default().validate().unwrap();
    }

    #[test]
    fn inconsistent_fields_are_named_with_their_values() {
        assert_eq!(
            refusal(|c| c.patch_size = 3),
            "model configuration: image_size and patch_size: expected an image size that is a multiple of the \
             patch size, found 64 and 3"
        );
        assert_eq!(
            refusal(|c| c.ffn_units = vec![512, 128]),
            "model configuration: ffn_units and projection_dim: expected the last of ffn_units equal to \
             projection_dim, for the residual connection, found [512, 128] and 256"
        );
    }

    #[test]
    fn invalid_values_are_rejected() {
        assert!(refusal(|c| c.patch_size = 0).contains("patch_size: expected at least 1"));
        assert!(refusal(|c| c.classifier_units = vec![]).contains("classifier_units"));
        assert!(refusal(|c| c.dropout_rate = 1.0).contains("dropout_rate"));
        assert!(refusal(|c| c.attention_dropout = f64::NAN).contains("attention_dropout"));
        assert!(
            refusal(|c| c.cross_attention_scale = f64::INFINITY).contains("cross_attention_scale")
        );
    }

    #[test]
    fn indivisible_options_are_rejected() {
        assert_eq!(
            refusal(|c| c.stem_units = vec![8; 6]),
            "model configuration: image_size, stem_units and patch_size: expected an image size that can be halved by every \
             layer of the stem and then cut into patches, found 64, 6 layers and 2"
        );
        refusal(|c| c.stem_units = vec![8; 80]);
        refusal(|c| c.stem_units = vec![0]);
        assert!(
            refusal(|c| c.num_cross_heads = 3)
                .contains("a width that is a multiple of the number of heads")
        );
        assert!(refusal(|c| c.num_cross_attends = 3).contains("no more cross attentions"));
    }

    #[test]
    fn every_size_has_an_upper_bound() {
        let huge = 1 << 63;
        let changes: [(&str, SetSize); 16] = [
            ("image_size", |c, n| c.image_size = n),
            ("channels", |c, n| c.channels = n),
            ("stem_units", |c, n| c.stem_units = vec![n]),
            ("stem_blocks", |c, n| {
                (c.stem_units, c.stem_blocks) = (vec![8], n);
            }),
            ("patch_size", |c, n| c.patch_size = n),
            ("fourier_bands", |c, n| c.fourier_bands = n),
            ("latent_dim", |c, n| c.latent_dim = n),
            ("projection_dim", |c, n| c.projection_dim = n),
            ("num_cross_heads", |c, n| c.num_cross_heads = n),
            ("num_heads", |c, n| c.num_heads = n),
            ("head_dim", |c, n| c.head_dim = n),
            ("num_transformer_blocks", |c, n| {
                c.num_transformer_blocks = n;
            }),
            ("num_iterations", |c, n| c.num_iterations = n),
            ("num_cross_attends", |c, n| c.num_cross_attends = n),
            ("ffn_units", |c, n| c.ffn_units = vec![n, 256]),
            ("classifier_units", |c, n| c.classifier_units = vec![n]),
        ];
        for (field, change) in changes {
            for size in [huge, usize::MAX, 1 << 32] {
                let message = refusal(|c| change(c, size));
                assert!(message.contains(field), "{message}");
                assert!(message.contains(&size.to_string()), "{message}");
            }
        }
        assert_eq!(
            refusal(|c| c.num_iterations = 1_000_000_000),
            "model configuration: num_iterations: expected at most 1024, found 1000000000"
        );
        assert!(refusal(|c| c.stem_units = vec![1; 1000]).contains("at most 32 layers"));
        assert!(refusal(|c| c.latent_deviation = 1e300).contains("latent_deviation"));
    }

    /// Each size alone is within its bounds here.
    #[test]
    fn sizes_with_a_too_large_product_are_rejected() {
        let changes: [(&str, Change); 6] = [
            ("num_cross_heads, latent_dim and image_size", |c| {
                c.image_size = 4096;
                c.patch_size = 1;
                c.projection_dim = 4;
                c.ffn_units = vec![4];
            }),
            ("image_size, patch_size and projection_dim", |c| {
                c.image_size = 4096;
                c.patch_size = 1;
            }),
            ("num_heads and latent_dim", |c| c.latent_dim = 65_536),
            ("image_size, patch_size and fourier_bands", |c| {
                c.image_size = 1024;
                c.patch_size = 2;
                c.positions = Positions::Fourier;
                c.fourier_bands = 4096;
            }),
            ("at most 4096 blocks", |c| {
                c.num_iterations = 1024;
                c.num_transformer_blocks = 1024;
            }),
            ("num_heads, head_dim and projection_dim", |c| {
                c.num_heads = 1024;
                c.head_dim = 65_536;
            }),
        ];
        for (expected, change) in changes {
            let message = refusal(change);
            assert!(message.contains(expected), "{expected}: {message}");
        }
        let slow = refusal(|c| {
            c.latent_dim = 8192;
            c.num_iterations = 1024;
        });
        assert!(
            slow.contains("multiply-adds per image, found about"),
            "{slow}"
        );
    }

    #[test]
    fn unknown_fields_are_rejected() {
        let error = serde_json::from_str::<PerceiverConfig>(r#"{"patchsize": 2}"#).unwrap_err();
        assert!(error.to_string().contains("unknown field `patchsize`"));
    }
}
