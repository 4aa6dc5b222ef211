//! Logs the kernels in use: in `bf16` on a CPU, which instructions multiply; for `--verbose`,
//! device, threads, instruction set, form of each attention.

use candle_core::Device;
use perceiver_model::{AttentionForm, ModelConfig, Summary};
use perceiver_ops::{Bf16Kernel, vector_instructions};
use perceiver_train::{DeviceChoice, Precision};

/// Logs the kernels that a model of this architecture uses on a device.
pub(crate) fn log(device: &Device, precision: Precision, model: &ModelConfig) {
    let choice = DeviceChoice::from(device);
    if device.is_cpu() {
        tracing::debug!(
            "computing on {choice} in {precision}: {} threads, vector instructions {}",
            rayon::current_num_threads(),
            vector_instructions()
        );
    } else {
        tracing::debug!("computing on {choice} in {precision}");
    }
    log_bf16(device, precision);
    let Some(model) = model.perceiver() else {
        return;
    };
    for (layer, form) in Summary::attention_forms(model) {
        let form = match form {
            AttentionForm::Direct => "direct: keys and values are projected",
            AttentionForm::Absorbed => "absorbed: projections go into queries and outputs",
        };
        tracing::debug!("attention of {layer} is {form} (fewest multiply-adds)");
    }
}

/// Says which instructions multiply in `bf16` on a CPU, if the precision is `bf16`.
pub(crate) fn log_bf16(device: &Device, precision: Precision) {
    if !device.is_cpu() || precision != Precision::Bf16 {
        return;
    }
    tracing::info!("{}", bf16_message(Bf16Kernel::fastest()));
}

fn bf16_message(kernel: Option<Bf16Kernel>) -> String {
    match kernel {
        Some(kernel) => format!("bf16: {kernel} multiplies matrices, with f32 sums"),
        None => "bf16: this CPU has no instructions for it; products are in f32, which is faster with --precision f32"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_the_kernel_or_says_that_there_is_none() {
        let with = bf16_message(Some(Bf16Kernel::PORTABLE));
        assert_eq!(with, "bf16: portable multiplies matrices, with f32 sums");
        let without = bf16_message(None);
        assert!(without.contains("no instructions for it") && without.contains("faster with"));
    }
}
