//! A transformer encoder block on `perceiver-ops`: pre-norm self-attention and feed-forward.

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor, Var};
use perceiver_ops::{
    Attention, Mode, RngKey, attention, gelu, layer_norm, linear, linear_residual, mean_pool,
};

/// Sizes of the block.
pub const WIDTH: usize = 8;
/// Attention heads.
pub const HEADS: usize = 2;
/// Classes of the head.
pub const CLASSES: usize = 3;

/// Parameters by name.
pub type Parameters = BTreeMap<&'static str, Var>;

/// Draws the parameters.
///
/// # Errors
/// When candle refuses a shape.
pub fn parameters() -> Result<Parameters> {
    let shapes: [(&str, &[usize]); 16] = [
        ("norm1.weight", &[WIDTH]),
        ("norm1.bias", &[WIDTH]),
        ("query.weight", &[WIDTH, WIDTH]),
        ("query.bias", &[WIDTH]),
        ("key.weight", &[WIDTH, WIDTH]),
        ("key.bias", &[WIDTH]),
        ("value.weight", &[WIDTH, WIDTH]),
        ("value.bias", &[WIDTH]),
        ("output.weight", &[WIDTH, WIDTH]),
        ("output.bias", &[WIDTH]),
        ("norm2.weight", &[WIDTH]),
        ("norm2.bias", &[WIDTH]),
        ("ffn.weight", &[WIDTH, WIDTH]),
        ("ffn.bias", &[WIDTH]),
        ("head.weight", &[CLASSES, WIDTH]),
        ("head.bias", &[CLASSES]),
    ];
    let draw = |(name, shape): (&'static str, &[usize])| {
        Ok((name, Var::from_tensor(&uniform(name, shape)?)?))
    };
    shapes.into_iter().map(draw).collect()
}

/// Draws values in [-1, 1) from a name.
///
/// # Errors
/// When candle refuses the shape.
pub fn uniform(name: &str, shape: &[usize]) -> Result<Tensor> {
    let key = RngKey::new(0).fold_in_name(name);
    let count = shape.iter().product::<usize>() as u64;
    let values: Vec<f32> = (0..count)
        .map(|at| (key.bits(at) >> 40) as f32 / (1 << 23) as f32 - 1.0)
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// Computes the logits `[batch, CLASSES]` of tokens `[batch, length, WIDTH]`.
///
/// `norm` is the layer norm, so that others can be tried.
///
/// # Errors
/// When the shapes do not fit.
pub fn logits(
    parameters: &Parameters,
    tokens: &Tensor,
    mode: Mode,
    norm: impl Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let p = |name: &str| parameters[name].as_tensor();
    let project = |x: &Tensor, name: &str| {
        linear(x, p(&format!("{name}.weight")), p(&format!("{name}.bias")))
    };
    let x = norm(tokens, p("norm1.weight"), p("norm1.bias"))?; // [batch, length, WIDTH]
    let how = Attention {
        heads: HEADS,
        scale: ((WIDTH / HEADS) as f64).powf(-0.5),
        dropout: 0.1,
        mode: mode.child(1),
    };
    let read = attention(
        &project(&x, "query")?,
        &project(&x, "key")?,
        &project(&x, "value")?,
        how,
    )?;
    let x = linear_residual(
        tokens,
        &read,
        [p("output.weight"), p("output.bias")],
        0.1,
        mode.child(2),
    )?;
    let y = norm(&x, p("norm2.weight"), p("norm2.bias"))?;
    let x = (x + gelu(&project(&y, "ffn")?)?)?;
    project(&mean_pool(&x)?, "head") // [batch, CLASSES]
}

/// The differentiable layer norm of `perceiver-ops`.
///
/// # Errors
/// When the shapes do not fit.
pub fn differentiable_norm(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    layer_norm(x, weight, bias, 1e-5)
}
