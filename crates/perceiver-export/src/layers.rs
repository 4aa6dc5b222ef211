//! Layers as nodes of a graph.

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod conv;
pub(crate) mod dense;
pub(crate) mod feed_forward;
pub(crate) mod layer_norm;
