//! Validation at the end of an epoch.

use perceiver_model::Parameters;

use crate::callbacks::{Callback, Event};
use crate::error::Result;
use crate::eval::measure;
use crate::eval::metrics::Metrics;
use crate::eval::test_time_augmentation::TestTimeAugmentation;
use crate::trainer::Trainer;

impl Trainer {
    pub(super) fn validate(&self, observer: &mut dyn Callback) -> Result<Metrics> {
        let mut noticed = Ok(());
        let mut tell = |done, total| {
            if noticed.is_ok() {
                noticed = observer.notice(&Event::Validation { done, total });
            }
        };
        let preprocessing = &self.data.preprocessing;
        let parameters =
            Parameters::from_tensors(&self.recipe.model, self.weights(), &self.place.device)?;
        let dtype = self.recipe.training.precision.dtype();
        let model = parameters.inference_model_in(&self.recipe.model, dtype)?;
        let views = TestTimeAugmentation::Picture; // test-time flip is for the test split only
        let sums = measure(
            &model,
            views,
            &self.data.validation,
            preprocessing,
            &self.place,
            &mut tell,
        )?;
        noticed?;
        Ok(sums.means())
    }
}
