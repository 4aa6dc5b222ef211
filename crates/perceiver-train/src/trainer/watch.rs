//! Shows the model to the watchdog, and reports its warnings.

use crate::callbacks::Event;
use crate::callbacks::notifier::Notifier;
use crate::diagnostics::model_stats::ModelDiagnosis;
use crate::error::Result;
use crate::eval::images_within;
use crate::trainer::Trainer;

/// The number of training images that the watchdog uses, and the steps after which it checks the
/// model, in addition to the start and the ends of epochs.
const NUM_IMAGES: usize = 8;
const EARLY_STEPS: [u64; 2] = [10, 100];

/// The values of a forward pass, 256 MiB, from which it uses fewer images: it sees whole attention
/// maps.
const MOST_VALUES: u64 = 1 << 26;

impl Trainer {
    /// Computes model statistics on a few training images; each rank computes its part.
    pub(super) fn diagnose(&self) -> Result<ModelDiagnosis> {
        let train = &self.data.train;
        let all = images_within(MOST_VALUES, &*self.model, NUM_IMAGES).min(train.len());
        let part = self.placement.ranks.part().range(all);
        let share = part.len() as f64 / all as f64;
        let seen = if part.is_empty() { 0..1 } else { part }; // with weight 0 if empty
        let images = seen.map(|index| train.image(index));
        let images = images.collect::<perceiver_data::Result<Vec<_>>>()?;
        let images = self.data.preprocessing.tensor(&images)?; // [few, 3, s, s]
        let model = self.parameters.inference_model(&self.recipe.model)?;
        let seen = ModelDiagnosis::of(&model, &images.to_device(&self.placement.device)?)?;
        seen.of_all(&*self.placement.ranks, share)
    }

    /// Lets the watchdog check the model at the start and after some early steps.
    pub(super) fn diagnose_early(&mut self, notifier: &mut Notifier<'_>) -> Result<()> {
        match self.progress.steps {
            0 => self.watchdog.starts(&self.diagnose()?),
            steps if EARLY_STEPS.contains(&steps) => self.watchdog.after_steps(&self.diagnose()?),
            _ => return Ok(()),
        }
        self.warn(notifier)
    }

    /// Reports the watchdog's warnings, and keeps them for the epoch's metrics.
    pub(super) fn warn(&mut self, notifier: &mut Notifier<'_>) -> Result<()> {
        for warning in self.watchdog.warnings() {
            notifier.notify(&Event::Warning(&warning))?;
            self.progress.epoch.warnings.push(warning);
        }
        Ok(())
    }
}
