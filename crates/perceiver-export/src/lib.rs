//! Exports Perceiver image classifiers to ONNX: the Perceiver of the Keras example with all its
//! options, and Perceiver IO.
//!
//! ```
//! use candle_core::Device;
//! use perceiver_export::{ExportOptions, OnnxMetadata, OnnxModel};
//! use perceiver_model::{ModelConfig, Parameters, PerceiverConfig};
//!
//! let config = ModelConfig::from(PerceiverConfig {
//!     image_size: 16,
//!     latent_dim: 8,
//!     projection_dim: 32,
//!     ffn_units: vec![32, 32],
//!     classifier_units: vec![32, 10],
//!     ..PerceiverConfig::default()
//! });
//! let parameters = Parameters::from_seed(&config, 42, &Device::Cpu)?;
//! let metadata = OnnxMetadata {
//!     classes: (0..10).map(|class| format!("class {class}")).collect(),
//!     ..OnnxMetadata::default()
//! };
//! let model = OnnxModel::new(&config, &parameters, &ExportOptions::default(), &metadata)?;
//! assert_eq!(model.operators()["LayerNormalization"], 21);
//!
//! let folder = std::env::temp_dir().join(format!("perceiver-export-{}", std::process::id()));
//! std::fs::create_dir_all(&folder).unwrap();
//! let paths = model.write(folder.join("model.onnx"))?;
//! assert_eq!(paths, [folder.join("model.onnx")]);
//! # std::fs::remove_dir_all(&folder).unwrap();
//! # Ok::<(), perceiver_export::ExportError>(())
//! ```
//!
//! The graph has standard operators of opset 17 and any batch size. Products of query and key
//! projections and of value and output projections are constants where that takes fewer
//! multiply-adds. [`ExportOptions`] puts preprocessing and softmax inside.

mod error; // error type
mod layers; // dense, layer norm, attention, convolution as nodes
mod metadata; // class names, checksum, licence
mod model; // the exported model
mod onnx; // messages, graph builder, files
mod options; // precision, softmax, preprocessing
mod perceiver; // the Perceiver of the Keras example
mod perceiver_io; // Perceiver IO of transformers
mod preprocessing; // bytes to model input
#[cfg(feature = "verify")]
mod verify; // another engine
mod weights; // weights by name

pub use error::{ExportError, Result};
pub use metadata::OnnxMetadata;
pub use model::OnnxModel;
pub use options::{ExportOptions, GraphPreprocessing, OnnxPrecision};
#[cfg(feature = "verify")]
pub use verify::run_in_tract;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDocTests;
