//! Operations that training a Perceiver on [candle](candle_core) needs and candle lacks: layer
//! norm, softmax and exact GELU with gradients, linear layers, batched products on all cores, and
//! dropout whose mask is a function of an [`RngKey`].
//!
//! candle's own fused `layer_norm` and `softmax_last_dim` have no backward pass and silently cut
//! the graph: a model built on them trains only what follows the last one. The operations here have
//! gradients on every device. On the CPU in `f32` each is one parallel kernel, and some are on
//! NVIDIA GPUs; elsewhere they are composed of candle's differentiable operations. Tests hold both
//! forms to the same values and gradients. 16-bit tensors are supported, with sums in `f32`.
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
//! Results do not depend on the number of threads: the shapes fix the order of every sum.

// Loops are compiled for each instruction set by inlining them where the set is chosen: see `simd`.
#![allow(clippy::inline_always)]

mod attention; // fused attention and its absorbed form
mod autograd; // gradient tape, recorded operations, activation checkpointing
mod cpu; // CPU kernels: SIMD, GEMM, in-place updates
mod cuda; // CUDA kernels, device, transfers, profiler
mod half_precision; // f16 and bf16 on the CPU, by way of f32
mod matmul; // products of bf16 matrices with f32 sums, on the CPU
mod mode; // training with dropout, or inference
mod nn; // linear, layer norm, softmax, GELU, dropout, im2col
mod optim; // Adam, LAMB, SGD, EMA and weight decay over tensors
mod rng; // counter-based random numbers

pub use attention::absorbed::composed::absorbed_attention_composed;
pub use attention::absorbed::weights::{AbsorbedWeights, Projections};
pub use attention::absorbed::{absorbed_attention, absorbed_attention_residual};
pub use attention::{Attention, attention, attention_composed};
pub use autograd::activation_checkpoint::{CheckpointedParameters, recompute};
pub use autograd::recorded_ops::{apply_op1, apply_op2, apply_op3, reshape, to_dtype};
pub use autograd::tape::Tape;
pub use cpu::finite::first_not_finite;
pub use cpu::in_place::change_values;
pub use cpu::simd::vector_instructions;
pub use cuda::device::open_cuda;
pub use cuda::profiler::{KernelTime, kernel_times, peak_device_bytes};
pub use cuda::transfer::Upload;
pub use matmul::kernel::Bf16Kernel;
pub use matmul::packed_matrix::PackedMatrix;
pub use mode::Mode;
pub use nn::broadcast::{
    add_bias, add_bias_composed, expand_batch, expand_batch_composed, multiply_scalar,
    multiply_scalar_composed,
};
pub use nn::concat::{concat_shared, concat_shared_composed};
pub use nn::conv2d::{conv2d, conv2d_composed};
pub use nn::cross_entropy::{cross_entropy_to, weighted_cross_entropy_to};
pub use nn::dropout::{add_dropout, add_dropout_composed, dropout, dropout_composed};
pub use nn::gelu::{gelu, gelu_composed};
pub use nn::heads::{join_heads, split_heads};
pub use nn::im2col::{im2col, im2col_composed};
pub use nn::layer_norm::{layer_norm, layer_norm_composed};
pub use nn::linear::{by_inputs, linear, linear_composed, linear_gelu};
pub use nn::matmul::{Transpose, batched_matmul, batched_matmul_composed};
pub use nn::max_pool::{max_pool, max_pool_composed};
pub use nn::mean_pool::mean_pool;
pub use nn::residual::linear_residual;
pub use nn::softmax::{softmax, softmax_composed};
pub use optim::ParameterStep;
pub use optim::adam::{AdamStep, adam_step, adam_step_composed};
pub use optim::ema::{ema_update, ema_update_composed, ema_update_square};
pub use optim::grad_norm::sum_of_squares;
pub use optim::lamb::{LambStep, lamb_step, lamb_step_composed};
pub use optim::multi_tensor::{
    adam_steps, copy_all, ema_updates, lamb_steps, muon_steps, one_by_one, sum_of_all_squares,
    widen_all,
};
pub use optim::muon::{MuonScale, MuonStep, muon_step, orthogonalized};
pub use optim::sgd::{SgdStep, sgd_step, sgd_step_composed};
pub use optim::weight_decay::decay;
pub use rng::RngKey;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDocTests;
