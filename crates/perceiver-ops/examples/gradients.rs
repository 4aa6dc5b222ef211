//! The gradient that candle's fused softmax cuts, and ours.
//!
//! `cargo run --example gradients`

use candle_core::{Device, Result, Tensor, Var};

fn main() -> Result<()> {
    let logits = Var::new(&[[1f32, 2.0, 3.0]], &Device::Cpu)?;
    let first = |probabilities: Tensor| probabilities.narrow(1, 0, 1)?.sum_all();

    let fused = first(candle_nn::ops::softmax_last_dim(&logits)?)?;
    println!(
        "candle: {:?}",
        fused.backward()?.get(&logits).map(Tensor::to_vec2::<f32>)
    );

    let ours = first(perceiver_ops::softmax(&logits)?)?;
    println!(
        "ours:   {:?}",
        ours.backward()?.get(&logits).map(Tensor::to_vec2::<f32>)
    );
    Ok(())
}
