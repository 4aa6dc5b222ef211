//! Import of Keras weights.
//!
//! Keras stores a dense kernel as `[inputs, outputs]`, and the kernels of `MultiHeadAttention` as
//! `[width, heads, head width]` (query, key, value) and `[heads, head width, width]` (output).
//! Flattened to two dimensions, every kernel is the transpose of our weight; everything else has
//! the same values in the same order.

use std::collections::HashMap;

use candle_core::{Device, Tensor};

use crate::config::PerceiverConfig;
use crate::error::{ModelError, Result};
use crate::weights::parameters::{Parameters, specifications};

/// Returns the Keras path of our parameter `name`.
///
/// ```
/// use perceiver_model::keras::path;
///
/// assert_eq!(path("transformer.3.attention.query.weight"), "block3_mha/query/kernel");
/// assert_eq!(path("cross_attention.norm_data.bias"), "cross_ln_data/beta");
/// assert_eq!(path("cross_attention.key.weight"), "cross_v/kernel"); // not a slip: see docs/parity.md
/// ```
pub fn path(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    match parts[..] {
        ["encoder", "positions"] => "position/embeddings".into(),
        ["encoder", "projection", kind] => format!("projection/{}", dense_part(kind)),
        ["cross_attention", "scale"] => "cross_attention/scale".into(),
        ["cross_attention", "ffn", layer, kind] => {
            format!("cross_ffn/cross_ffn_dense{layer}/{}", dense_part(kind))
        }
        ["cross_attention", layer, kind] => match layer {
            "norm_latents" => format!("cross_ln_latent/{}", norm_part(kind)),
            "norm_data" => format!("cross_ln_data/{}", norm_part(kind)),
            "norm_output" => format!("cross_ln_out/{}", norm_part(kind)),
            "query" => format!("cross_q/{}", dense_part(kind)),
            // Keras's `Attention` takes [query, value, key], and the example passes [query, key,
            // value]: the example's "value" forms the logits, and its "key" is summed.
            "key" => format!("cross_v/{}", dense_part(kind)),
            _ => format!("cross_k/{}", dense_part(kind)),
        },
        ["transformer", block, "norm_attention", kind] => {
            format!("block{block}_ln1/{}", norm_part(kind))
        }
        ["transformer", block, "norm_ffn", kind] => format!("block{block}_ln2/{}", norm_part(kind)),
        ["transformer", block, "attention", layer, kind] => {
            let layer = if layer == "output" {
                "attention_output"
            } else {
                layer
            };
            format!("block{block}_mha/{layer}/{}", dense_part(kind))
        }
        ["transformer", block, "ffn", layer, kind] => {
            format!(
                "block{block}_ffn/block{block}_ffn_dense{layer}/{}",
                dense_part(kind)
            )
        }
        ["head", layer, kind] => format!("head/head_dense{layer}/{}", dense_part(kind)),
        _ => name.into(),
    }
}

fn dense_part(kind: &str) -> &'static str {
    if kind == "weight" { "kernel" } else { "bias" }
}

fn norm_part(kind: &str) -> &'static str {
    if kind == "weight" { "gamma" } else { "beta" }
}

/// Returns the shape in Keras of our parameter `name` of shape `ours`.
fn shape(config: &PerceiverConfig, name: &str, ours: &[usize]) -> Vec<usize> {
    let (heads, head, width) = (config.num_heads, config.head_width(), config.projection_dim);
    match name.rsplit_once(".attention.").map(|(_, rest)| rest) {
        Some("output.weight") => vec![heads, head, width],
        Some("output.bias") => ours.to_vec(),
        Some(projection) if projection.ends_with("weight") => vec![width, heads, head],
        Some(_) => vec![heads, head],
        None if is_kernel(name, ours) => vec![ours[1], ours[0]],
        None => ours.to_vec(),
    }
}

fn is_kernel(name: &str, ours: &[usize]) -> bool {
    name.ends_with(".weight") && ours.len() == 2
}

/// Extracts the tensors of this architecture from named Keras arrays (weights, or their gradients),
/// in our names and layout. `prefix` precedes the Keras paths.
///
/// # Errors
/// When one is missing or has another shape, with its Keras path.
pub fn convert(
    config: &PerceiverConfig,
    arrays: &HashMap<String, Tensor>,
    prefix: &str,
) -> Result<HashMap<String, Tensor>> {
    let convert_one = |(name, ours): (String, Vec<usize>)| {
        let path = format!("{prefix}{}", path(&name));
        let expected = shape(config, &name, &ours);
        let Some(array) = arrays.get(&path) else {
            return Err(ModelError::MissingWeight {
                name: path,
                expected,
            });
        };
        // A Keras scalar has no dimensions; safetensors written from NumPy may give it one.
        if array.dims() != expected && !(ours.is_empty() && array.elem_count() == 1) {
            return Err(ModelError::WeightShape {
                name: path,
                expected,
                found: array.dims().to_vec(),
            });
        }
        let tensor = match ours[..] {
            [outputs, inputs] if is_kernel(&name, &ours) => {
                array.reshape((inputs, outputs))?.t()?.contiguous()?
            }
            _ => array.reshape(ours)?,
        };
        Ok((name, tensor))
    };
    specifications(config)?
        .into_iter()
        .map(|(name, (shape, _))| convert_one((name, shape.dims().to_vec())))
        .collect()
}

/// Imports the weights of a Keras model, named by Keras path after `prefix`.
///
/// # Errors
/// As for [`convert`]; also when arrays under the prefix are left over.
pub fn import(
    config: &PerceiverConfig,
    arrays: &HashMap<String, Tensor>,
    prefix: &str,
    device: &Device,
) -> Result<Parameters> {
    let tensors = convert(config, arrays, prefix)?;
    let known: Vec<String> = tensors
        .keys()
        .map(|name| format!("{prefix}{}", path(name)))
        .collect();
    let mut names: Vec<String> = arrays
        .keys()
        .filter(|key| key.starts_with(prefix) && !known.contains(key))
        .cloned()
        .collect();
    if !names.is_empty() {
        names.sort();
        return Err(ModelError::UnexpectedWeights { names });
    }
    Parameters::from_loaded_tensors(config, tensors, device)
}
