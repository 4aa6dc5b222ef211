//! The Perceiver image classifier of the Keras example "Image classification with Perceiver", on
//! candle: the same architecture, the same initialisation and, given the same weights, the same
//! numbers.
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
//! The path of an image: the optional stem, [`patches`], the encoder, then cross-attention and
//! latent transformer in each iteration, the mean over the latents, the head.

mod architecture; // the trait of architectures, and the configuration of any of them
mod attention; // cross-attention and self-attention modules
mod classifier; // the trait of image classifiers
mod config; // every size of a model
mod encoder; // patches and positions to tokens
mod error; // error type
mod hooks; // activations of a forward pass
mod layers; // dense, layer norm, feed-forward, patches, positions, stem
mod perceiver; // the model and its forward pass
mod perceiver_io; // Perceiver IO image classifiers of transformers
mod summary; // parameters and multiply-adds
mod transformer; // latent transformer blocks
mod weights; // names, initialization, safetensors, PyTorch, Keras, transfer

pub use architecture::Architecture;
pub use architecture::custom::CustomModel;
pub use architecture::model_config::ModelConfig;
pub use attention::form::AttentionForm;
pub use classifier::Classifier;
pub use config::foreign::{MODEL_TYPE, foreign_config};
pub use config::{PerceiverConfig, Positions, Sharing};
pub use error::{ModelError, Result};
pub use hooks::{Features, Probe, Stage};
pub use layers::patches::patches;
pub use perceiver::Perceiver;
pub use perceiver_io::PerceiverIo;
pub use perceiver_io::config::{AttentionWidth, PerceiverIoConfig, is_perceiver_io_config};
pub use perceiver_io::kind::InputKind;
pub use summary::{Summary, SummaryLayer, SummaryRow};
pub use weights::directory::{WeightFile, read_weights};
pub use weights::keras;
pub use weights::parameters::{Parameters, read_safetensors, require_finite};
pub use weights::pytorch::read_pytorch;
pub use weights::transfer::Transfer;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDocTests;
