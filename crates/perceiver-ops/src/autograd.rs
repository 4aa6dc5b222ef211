//! Automatic differentiation around candle: gradient tape, recorded operations, activation
//! checkpointing.

pub(crate) mod activation_checkpoint;
pub(crate) mod custom_function;
pub(crate) mod recorded_ops;
pub(crate) mod tape;
