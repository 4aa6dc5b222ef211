//! Neural network operations: linear, layer norm, softmax, GELU, dropout and others,
//! differentiable, on CPU and GPU.

pub(crate) mod broadcast;
pub(crate) mod concat;
pub(crate) mod conv2d;
pub(crate) mod cross_entropy;
pub(crate) mod dropout;
pub(crate) mod gelu;
pub(crate) mod heads;
pub(crate) mod im2col;
pub(crate) mod layer_norm;
pub(crate) mod linear;
pub(crate) mod matmul;
pub(crate) mod max_pool;
pub(crate) mod mean_pool;
pub(crate) mod residual;
pub(crate) mod softmax;
