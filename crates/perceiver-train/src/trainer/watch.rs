//! Shows the model to the watchdog and its warnings to callbacks, and, on request, histograms of
//! weights and gradients.

use std::num::NonZeroUsize;

use crate::callbacks::Event;
use crate::callbacks::notifier::Notifier;
use crate::diagnostics::histogram::Histogram;
use crate::diagnostics::model_stats::ModelDiagnosis;
use crate::error::Result;
use crate::eval::images_within;
use crate::optim::gradients::Gradients;
use crate::trainer::Trainer;

/// The number of training images that the watchdog uses, and the steps after which it checks the
/// model, in addition to the start and the ends of epochs.
const NUM_IMAGES: usize = 8;
const EARLY_STEPS: [u64; 2] = [10, 100];

/// The values of a forward pass, 256 MiB, from which it uses fewer images: it sees whole attention
/// maps.
const MOST_VALUES: u64 = 1 << 26;

/// Which epochs have histograms, and what they need.
#[derive(Default)]
pub(super) struct Histograms {
    /// The interval in epochs; none without histograms.
    pub(super) every: Option<NonZeroUsize>,
    /// The gradients of the last step, in an epoch that has histograms.
    pub(super) gradients: Option<Gradients>,
}

impl Histograms {
    /// Whether the epoch after `epochs` epochs has histograms.
    pub(super) fn is_due(&self, epochs: usize) -> bool {
        let every = self.every;
        every.is_some_and(|every| (epochs + 1).is_multiple_of(every.get()))
    }
}

impl Trainer {
    /// Records histograms of weights and gradients after every `every`-th epoch, for callbacks
    /// ([`Event::Histograms`]). The run has the same bits with and without them; the gradients of a
    /// step are kept for longer, which takes the memory of the weights once more.
    pub fn record_histograms(&mut self, every: NonZeroUsize) {
        self.histograms.every = Some(every);
    }

    /// Shows histograms to callbacks after an epoch that has them. Of several ranks, which have the
    /// same weights and gradients, the first does.
    pub(super) fn show_histograms(&mut self, notifier: &mut Notifier<'_>) -> Result<()> {
        let epoch = self.progress.history.len();
        let gradients = self.histograms.gradients.take();
        if !self.histograms.is_due(epoch - 1) || !self.placement.ranks.is_first() {
            return Ok(());
        }
        let weights = self.parameters.iter();
        let weights = weights
            .map(|(name, variable)| Ok((name.to_string(), Histogram::of(variable)?)))
            .collect::<Result<Vec<_>>>()?;
        let gradients = gradients.into_iter().flatten();
        let gradients = gradients
            .map(|(name, gradient)| Ok((name, Histogram::of(&gradient)?)))
            .collect::<Result<Vec<_>>>()?;
        notifier.notify(&Event::Histograms {
            epoch,
            weights: &weights,
            gradients: &gradients,
        })
    }

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
