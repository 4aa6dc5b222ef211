//! What training a Perceiver on [candle](candle_core) needs and candle lacks: layer norm, softmax and exact GELU
//! that pass gradients on, linear layers, batched products that use every core, and dropout whose mask is a function of a
//! [`Key`].
//!
//! candle's own fused `layer_norm` and `softmax_last_dim` have no backward pass and cut the graph in silence: a model
//! built on them trains only what comes after the last one. The operations here always carry gradients, on every
//! device. On the CPU in `f32` they run as one parallel kernel each, on NVIDIA's GPUs some do; elsewhere they are composed of candle's
//! differentiable operations. Tests hold both to the same values and the same gradients. Tensors of 16 bits are taken too, and summed
//! up in `f32` wherever a sum is taken.
//!
//! ```
//! use candle_core::{Device, Tensor, Var};
//! use perceiver_ops::softmax;
//!
//! let logits = Var::new(&[[0f32, 0.0], [7.0, 7.0]], &Device::Cpu)?;
//! let probabilities = softmax(&logits)?;
//! assert_eq!(probabilities.to_vec2::<f32>()?, [[0.5, 0.5], [0.5, 0.5]]);
//!
//! // The gradient reaches the logits: d(p_0) / d(logits) = p_0 * ([1, 0] - p).
//! let gradients = probabilities.narrow(1, 0, 1)?.sum_all()?.backward()?;
//! let gradient = gradients.get(&logits).expect("softmax passes gradients on");
//! assert_eq!(gradient.to_vec2::<f32>()?, [[0.25, -0.25], [0.25, -0.25]]);
//! # Ok::<(), candle_core::Error>(())
//! ```
//!
//! Results do not depend on the number of threads: every sum is taken in an order fixed by the shapes.

// Loops are compiled once for each instruction set by inlining them where the set is chosen: see `simd`.
#![allow(clippy::inline_always)]

mod absorbed_attention;
mod absorbed_products;
mod absorbed_weights;
mod adam;
mod attention;
mod broadcast;
mod cpu;
mod cross_entropy;
mod cuda;
mod decay;
mod dropout;
mod finite;
mod gelu;
mod gemm;
mod heads;
mod in_graph;
mod in_place;
mod kernel_times;
mod key;
mod lamb;
mod layer_norm;
mod linear;
mod matmul;
mod mean_of_tokens;
mod mode;
mod moving_mean;
mod narrow;
mod neighbourhoods;
mod norm;
mod noted;
mod onto;
mod open_cuda;
mod recompute;
mod sgd;
mod simd;
mod softmax;
mod steps;
mod tape;
mod transpose;
mod upload;

pub use absorbed_attention::{
    absorbed_attention, absorbed_attention_composed, absorbed_attention_onto,
};
pub use absorbed_weights::{AbsorbedWeights, Projections};
pub use adam::{AdamStep, adam_step, adam_step_composed};
pub use attention::{Attention, attention, attention_composed};
pub use broadcast::{
    add_bias, add_bias_composed, expand_batch, expand_batch_composed, multiply_scalar,
    multiply_scalar_composed,
};
pub use cross_entropy::cross_entropy_to;
pub use decay::decay;
pub use dropout::{add_dropout, add_dropout_composed, dropout, dropout_composed};
pub use finite::first_not_finite;
pub use gelu::{gelu, gelu_composed};
pub use heads::{join_heads, split_heads};
pub use in_place::change_values;
pub use kernel_times::{KernelTime, kernel_times, peak_device_bytes};
pub use key::Key;
pub use lamb::{LambStep, lamb_step, lamb_step_composed};
pub use layer_norm::{layer_norm, layer_norm_composed};
pub use linear::{linear, linear_composed, linear_gelu};
pub use matmul::{Transpose, batched_matmul, batched_matmul_composed};
pub use mean_of_tokens::mean_of_tokens;
pub use mode::Mode;
pub use moving_mean::{move_mean, move_mean_composed, move_mean_square};
pub use neighbourhoods::{neighbourhoods, neighbourhoods_composed};
pub use norm::sum_of_squares;
pub use noted::{apply_op1, apply_op2, apply_op3, reshape, to_dtype};
pub use onto::linear_onto;
pub use open_cuda::open_cuda;
pub use recompute::recompute;
pub use sgd::{SgdStep, sgd_step, sgd_step_composed};
pub use simd::vector_instructions;
pub use softmax::{softmax, softmax_composed};
pub use steps::{
    ParameterStep, adam_steps, copy_all, lamb_steps, move_means, one_by_one, sum_of_all_squares,
    widen_all,
};
pub use tape::Tape;
pub use upload::Upload;
