//! Model weights: names, initialization, safetensors and Keras files, transfer to another head or
//! image size.

#[cfg(feature = "hub")]
pub(crate) mod from_pretrained;
pub mod keras;
pub(crate) mod parameters;
pub(crate) mod transfer;
