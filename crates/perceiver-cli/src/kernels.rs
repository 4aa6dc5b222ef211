//! What computes, for `--verbose`: the device, threads and vectors, and in which form each attention is.

use candle_core::Device;
use perceiver_model::{AttentionForm, PerceiverConfig, Summary};
use perceiver_ops::vector_instructions;
use perceiver_train::{DeviceChoice, Precision};

/// Says what a model of this architecture computes with on a device.
pub(crate) fn say(device: &Device, precision: Precision, model: &PerceiverConfig) {
    let place = DeviceChoice::from(device);
    if device.is_cpu() {
        tracing::debug!(
            "computing on {place} in {precision}: {} threads, vectors {}",
            rayon::current_num_threads(),
            vector_instructions()
        );
    } else {
        tracing::debug!("computing on {place} in {precision}");
    }
    for (layer, form) in Summary::attention_forms(model) {
        let form = match form {
            AttentionForm::Direct => "direct: keys and values are projected",
            AttentionForm::Absorbed => "absorbed: projections go into queries and outputs",
        };
        tracing::debug!("attention of {layer} is {form}, which takes the fewest products");
    }
}
