//! The test at the end of a run: evaluated once, by all ranks together, and saved.

use anyhow::Result;
use perceiver_data::Samples;
use perceiver_train::{
    EventFile, Prediction, TestResults, TestTimeAugmentation, Trainer, require_agreement,
    write_predictions,
};

use crate::commands::{evaluate, report};
use crate::ui::error_hints;

/// The test results of a run.
pub(crate) struct TestOutcome {
    pub(crate) results: TestResults,
    /// The test images; `None` if the run had been evaluated before.
    pub(super) test: Option<Samples>,
    /// The number of classes of the model.
    pub(super) classes: usize,
}

impl TestOutcome {
    /// Returns the names of the test images, if they have any. A failure does not invalidate the
    /// results.
    fn image_names(&self) -> Option<Vec<String>> {
        self.test.as_ref().and_then(report::image_names)
    }
}

/// Evaluates on the test split, once and by all ranks together. The first rank keeps the results
/// until the run is extended; the others return `None`.
pub(super) fn verdict(trainer: &Trainer) -> Result<Option<TestOutcome>> {
    let (run, ranks) = (trainer.run(), &trainer.place().ranks);
    let shown = |error| error_hints::shown(error, run, trainer.recipe());
    let before = TestResults::read(&run.results()).ok();
    let before = before.filter(|_| ranks.is_first()); // others may not see it yet
    let mut reached = [f64::from(u8::from(before.is_some()))];
    ranks.all_reduce_f64(&mut reached)?;
    if !ranks.is_first() {
        if reached == [0.0] {
            test(trainer)?; // this rank's part
        }
        return Ok(None);
    }
    let judged = if let Some(results) = before {
        TestOutcome {
            results,
            test: None,
            classes: trainer.recipe().model.num_classes(),
        }
    } else {
        let (judged, predictions) = test(trainer)?;
        // The predictions first: if the results exist, so do all files that belong to them.
        let names = judged.image_names();
        let written = write_predictions(&run.predictions(), &predictions, names.as_deref());
        let written = written.and_then(|()| judged.results.write(&run.results()));
        written.map_err(shown)?;
        judged
    };
    let curves = EventFile::new(run.event_file());
    let written = curves.write(trainer.history(), Some(&judged.results));
    written.map_err(shown)?;
    Ok(Some(judged))
}

/// Loads and evaluates the test split, the only time that it is read.
fn test(trainer: &Trainer) -> Result<(TestOutcome, Vec<Prediction>)> {
    let recipe = trainer.recipe();
    let ranks = &*trainer.place().ranks;
    let data = trainer.data();
    let test = report::test_split(recipe, data.listing.clone(), data.train.classes(), ranks)?;
    if ranks.size() > 1 {
        let facts = [("the test split".to_string(), test.sha256().into())];
        require_agreement(ranks, &facts.into_iter().collect())?;
    }
    let evaluation = evaluate::with_bar(
        trainer.model(),
        TestTimeAugmentation::new(recipe.data.test_time_flip),
        &test,
        trainer.preprocessing(),
        trainer.place(),
    )?;
    let judged = TestOutcome {
        results: TestResults::new(&test, &evaluation.sums),
        test: Some(test),
        classes: recipe.model.num_classes(),
    };
    Ok((judged, evaluation.predictions))
}
