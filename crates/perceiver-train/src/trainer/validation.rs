//! Validation at the end of an epoch.

use std::collections::BTreeMap;

use perceiver_model::Parameters;

use crate::callbacks::notifier::Notifier;
use crate::callbacks::{Event, Validated};
use crate::error::Result;
use crate::eval::measure;
use crate::eval::metrics::Metrics;
use crate::trainer::Trainer;

impl Trainer {
    /// Validates the weights that would be saved, without test-time flip, which is for the test split
    /// only, and collects the callbacks' own metrics.
    pub(super) fn validate(
        &self,
        notifier: &mut Notifier<'_>,
    ) -> Result<(Metrics, BTreeMap<String, f64>)> {
        let mut notified = Ok(());
        let mut report = |done, total| {
            if notified.is_ok() {
                notified = notifier.notify(&Event::Validation { done, total });
            }
        };
        let parameters =
            Parameters::from_tensors(&self.recipe.model, self.weights(), &self.placement.device)?;
        let dtype = self.recipe.training.precision.dtype();
        let model = parameters.inference_model_in(&self.recipe.model, dtype)?;
        let sums = measure(
            &model,
            &self.data.validation,
            &self.data.preprocessing,
            self.validation_weights.as_ref(),
            &self.placement,
            &mut report,
        )?;
        notified?;
        let custom = notifier.epoch_metrics(&Validated {
            epoch: self.progress.history.len() + 1,
            model: &model,
            validation: &self.data.validation,
            preprocessing: &self.data.preprocessing,
            placement: &self.placement,
        })?;
        Ok((sums.means(), custom))
    }
}
