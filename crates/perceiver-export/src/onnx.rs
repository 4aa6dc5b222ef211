//! The ONNX format: messages, a graph builder, files.

pub(crate) mod attribute;
pub(crate) mod graph;
pub(crate) mod proto;
pub(crate) mod tensor;
pub(crate) mod write;
