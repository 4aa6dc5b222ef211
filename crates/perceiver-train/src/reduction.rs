//! What the ranks have found in their parts of a batch, made into what one would have found in the whole.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use perceiver_data::Batch;
use perceiver_model::Parameters;

use crate::batch_pass::BatchResult;
use crate::error::Result;
use crate::gradients::Gradients;
use crate::metrics::MetricSums;
use crate::ranks::Ranks;

/// A whole batch, gone through.
pub(crate) struct Reduced {
    /// The mean loss.
    pub(crate) loss: f64,
    /// The gradients of the mean loss.
    pub(crate) gradients: Gradients,
    /// How its pictures were classified.
    pub(crate) sums: MetricSums,
}

/// Sums up what the ranks found; `part` is none where this one's part, `batch`, of a whole of `whole` pictures is empty.
///
/// # Errors
/// When a rank has gone, or candle refuses an operation.
pub(crate) fn reduced(
    ranks: &dyn Ranks,
    part: Option<BatchResult>,
    (batch, whole): (&Batch, usize),
    parameters: &Parameters,
) -> Result<Reduced> {
    let share = batch.indices.len() as f64 / whole as f64;
    let mut sums = MetricSums::default();
    let (mut loss, mut found) = (0.0, None);
    if let Some(part) = part {
        sums.update(&part.logits, &batch.labels)?;
        loss = part.loss * share;
        found = Some(part.gradients);
    }
    let [of_loss, correct, correct_top5, samples] = sums.to_numbers();
    let mut numbers = [of_loss, correct, correct_top5, samples, loss];
    ranks.all_reduce_f64(&mut numbers)?;
    let [of_loss, correct, correct_top5, samples, loss] = numbers;
    let gradients = match found {
        Some(gradients) if ranks.size() == 1 => gradients,
        found => summed(ranks, found.as_ref(), share, parameters)?,
    };
    Ok(Reduced {
        loss,
        gradients,
        sums: MetricSums::from_numbers([of_loss, correct, correct_top5, samples]),
    })
}

/// The sum over the ranks of gradients times each rank's share of the batch; none are zeros.
fn summed(
    ranks: &dyn Ranks,
    gradients: Option<&Gradients>,
    share: f64,
    parameters: &Parameters,
) -> Result<Gradients> {
    let variables: BTreeMap<_, _> = parameters.iter().collect();
    let mut values = Vec::with_capacity(parameters.count());
    for (name, variable) in &variables {
        let Some(gradients) = gradients else {
            values.resize(values.len() + variable.elem_count(), 0.0);
            continue;
        };
        let gradient = gradients.of_parameter(name)?.to_dtype(DType::F32)?;
        let gradient = gradient.to_device(&Device::Cpu)?.flatten_all()?;
        let weighed = |value: f32| (f64::from(value) * share) as f32;
        values.extend(gradient.to_vec1()?.into_iter().map(weighed));
    }
    ranks.all_reduce(&mut values)?;
    let mut rest = values.as_slice();
    let sums = variables.into_iter().map(|(name, variable)| {
        let (own, others) = rest.split_at(variable.elem_count());
        rest = others;
        let sum = Tensor::from_slice(own, variable.shape(), variable.device())?;
        Ok((name.to_string(), sum.to_dtype(variable.dtype())?))
    });
    sums.collect::<Result<Vec<_>>>()
        .map(Gradients::from_tensors)
}
