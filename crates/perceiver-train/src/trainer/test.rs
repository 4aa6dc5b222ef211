//! The test at the end of a run: evaluated by all ranks together, and saved.

use perceiver_data::{DataError, Samples};

use crate::callbacks::notifier::Notifier;
use crate::callbacks::tensorboard::EventFile;
use crate::callbacks::{Callback, Event};
use crate::distributed::consistency::require_agreement;
use crate::error::Result;
use crate::eval::predictions::write_predictions;
use crate::eval::test_time_augmentation::TestTimeAugmentation;
use crate::eval::{TestResults, evaluate};
use crate::trainer::Trainer;

impl Trainer {
    /// Evaluates the model on test samples and writes the results to the run directory:
    /// `predictions.csv`, `results.json`, and the event file of TensorBoard. Call it once, after
    /// [`Trainer::fit`]. All ranks have to call it.
    ///
    /// # Errors
    /// When the classes are not those of training, an image cannot be read, logits are not finite,
    /// a file cannot be written, or the callback fails.
    pub fn test(&self, test: &Samples, callback: &mut dyn Callback) -> Result<TestResults> {
        self.require_classes_of(test)?;
        let ranks = &*self.placement.ranks;
        if ranks.size() > 1 {
            let name = "the test split".to_string();
            require_agreement(ranks, &[(name, test.sha256())].into())?;
        }
        let never = std::sync::atomic::AtomicBool::new(false);
        let mut notifier = Notifier::new(callback, &never);
        let mut notified = Ok(());
        let model = self.parameters.inference_model(&self.recipe.model)?;
        let evaluation = evaluate(
            &*model,
            TestTimeAugmentation::new(self.recipe.data.test_time_flip),
            test,
            &self.data.preprocessing,
            &self.placement,
            &mut |done, total| {
                if notified.is_ok() {
                    notified = notifier.notify(&Event::Test { done, total });
                }
            },
        )?;
        notified?;
        let results = TestResults::new(test, &evaluation);
        if ranks.is_first() {
            // A failure to name the images does not invalidate the results.
            let names = test.image_names().unwrap_or_else(|error| {
                tracing::warn!("cannot read the names of the test images: {error}");
                None
            });
            // The predictions first: if the results exist, so do all files that belong to them.
            let (run, predictions) = (&self.run, &evaluation.predictions);
            write_predictions(&run.predictions(), predictions, names.as_deref())?;
            results.write(run.results())?;
            let curves = EventFile::new(run.event_file());
            curves.write(&self.progress.history, Some(&results))?;
        }
        notifier.notify(&Event::Tested(&results))?;
        Ok(results)
    }

    fn require_classes_of(&self, test: &Samples) -> Result<()> {
        let classes = self.data.train.classes();
        if test.classes() == classes {
            return Ok(());
        }
        Err(DataError::Inconsistent {
            name: test.name().to_string(),
            expected: format!("test images of the classes {classes:?}"),
            found: format!("{:?}", test.classes()),
        }
        .into())
    }
}
