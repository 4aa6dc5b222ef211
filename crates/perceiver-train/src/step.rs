//! A training step: prefetch, forward and backward pass in micro-batches, loss, mixed precision.

pub(crate) mod class_weights;
pub(crate) mod loss;
pub(crate) mod micro_batches;
pub(crate) mod mixed_precision;
pub(crate) mod prefetch;
