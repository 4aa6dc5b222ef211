//! The test at the end of a run: evaluated once, by all ranks together, and saved.

use anyhow::Result;
use perceiver_data::Samples;
use perceiver_model::Architecture;
use perceiver_train::{Callback, Callbacks, Event, EventFile, TestResults, Trainer};

use crate::commands::report;
use crate::ui::error_hints;
use crate::ui::progress::image_bar;

/// The test results of a run.
pub(crate) struct TestOutcome {
    pub(crate) results: TestResults,
    /// The test images; `None` if the run had been evaluated before.
    pub(super) test: Option<Samples>,
    /// The number of classes of the model.
    pub(super) classes: usize,
}

/// Evaluates on the test split, once and by all ranks together. The first rank keeps the results
/// until the run is extended; the others return `None`. `callbacks` see how far the test is.
pub(super) fn evaluate_run(
    trainer: &Trainer,
    callbacks: &mut Callbacks,
) -> Result<Option<TestOutcome>> {
    let (run, ranks) = (trainer.run(), &trainer.placement().ranks);
    let before = TestResults::read(run.results()).ok();
    let before = before.filter(|_| ranks.is_first()); // others may not see it yet
    let mut reached = [f64::from(u8::from(before.is_some()))];
    ranks.all_reduce_f64(&mut reached)?;
    if !ranks.is_first() {
        if reached == [0.0] {
            test(trainer, callbacks)?; // this rank's part
        }
        return Ok(None);
    }
    let Some(results) = before else {
        return test(trainer, callbacks).map(Some);
    };
    let curves = EventFile::new(run.event_file());
    let written = curves.write(trainer.history(), Some(&results));
    written.map_err(|error| error_hints::shown(error, run, trainer.recipe()))?;
    Ok(Some(TestOutcome {
        results,
        test: None,
        classes: trainer.recipe().model.num_classes(),
    }))
}

/// Loads and evaluates the test split, the only time that it is read.
fn test(trainer: &Trainer, callbacks: &mut Callbacks) -> Result<TestOutcome> {
    let (recipe, data) = (trainer.recipe(), trainer.data());
    let ranks = &*trainer.placement().ranks;
    let test = report::test_split(recipe, data.listing.clone(), data.train.classes(), ranks)?;
    let bar = image_bar(test.len() as u64, "testing");
    let mut show = |event: &Event<'_>| {
        if let Event::Test { done, total } = event {
            bar.set_length(*total);
            bar.set_position(*done);
        }
        callbacks.on_event(event)
    };
    let results = trainer.test(&test, &mut show);
    bar.finish_and_clear();
    Ok(TestOutcome {
        results: results.map_err(|error| error_hints::shown(error, trainer.run(), recipe))?,
        test: Some(test),
        classes: recipe.model.num_classes(),
    })
}
