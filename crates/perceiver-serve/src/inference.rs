//! Inference: decoding on threads of their own, the queue, and the model's thread with its batches.

pub(crate) mod attention;
pub(crate) mod batch;
pub(crate) mod decode;
pub(crate) mod model_thread;
pub(crate) mod queue;
