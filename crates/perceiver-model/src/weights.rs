//! Model weights: names, initialization, safetensors, PyTorch and Keras files, transfer to another
//! head or image size.

pub(crate) mod directory;
#[cfg(feature = "hub")]
pub(crate) mod from_pretrained;
pub mod keras;
pub(crate) mod parameters;
pub(crate) mod pytorch;
pub(crate) mod transfer;
