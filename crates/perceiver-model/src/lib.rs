//! The Perceiver image classifier of the Keras example "Image classification with Perceiver", on candle: the same
//! architecture, the same initialisation and, given the same weights, the same numbers.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use perceiver_model::{Parameters, PerceiverConfig};
//! use perceiver_ops::Mode;
//!
//! let config = PerceiverConfig {
//!     image_size: 16,
//!     latent_dim: 8,
//!     projection_dim: 32,
//!     ffn_units: vec![32, 32],
//!     classifier_units: vec![32, 10],
//!     ..PerceiverConfig::default()
//! };
//! let parameters = Parameters::from_seed(&config, 42, &Device::Cpu)?;
//! let model = parameters.model(&config)?;
//!
//! let images = Tensor::zeros((4, 3, 16, 16), DType::F32, &Device::Cpu)?;
//! let logits = model.forward(&images, Mode::Inference)?;
//! assert_eq!(logits.dims(), [4, 10]);
//!
//! // Where the 8 latents look among the 64 patches, in each of the two iterations.
//! let maps = model.attention_maps(&images)?;
//! assert_eq!(maps.len(), 2);
//! assert_eq!(maps[0].dims(), [4, 8, 64]);
//! # Ok::<(), perceiver_model::ModelError>(())
//! ```
//!
//! The path of an image: the stem where there is one, [`patches`], the encoder, then cross attention and the latent transformer in turns,
//! the mean over the latents, the head. Each is a file of that name.

mod attention_form;
mod attention_logits;
mod config;
mod cross_attention;
mod encoder;
mod error;
mod feed_forward;
mod foreign_config;
mod grid;
pub mod keras;
mod layers;
mod parameters;
mod patches;
mod perceiver;
mod positions;
#[cfg(feature = "hub")]
mod pretrained;
mod probe;
mod self_attention;
mod stem;
mod summary;
mod transfer;
mod transformer;
mod weight_sets;

pub use attention_form::AttentionForm;
pub use config::{PerceiverConfig, Positions, Sharing};
pub use error::{ModelError, Result};
pub use foreign_config::{MODEL_TYPE, foreign_config};
pub use parameters::{Parameters, read_safetensors, require_finite};
pub use patches::patches;
pub use perceiver::Perceiver;
pub use probe::{Probe, Stage};
pub use summary::{Summary, SummaryRow};
pub use transfer::Transfer;
