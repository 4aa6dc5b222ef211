//! A callback: logs steps, adds a metric of its own to every epoch, and ends training early.
//!
//! `cargo run --example callback`

use candle_core::Device;
use perceiver_data::BoxError;
use perceiver_train::{
    Callback, CallbackResult, Callbacks, Control, Event, MetricsFile, Preset, RunDirectory,
    TestTimeAugmentation, Trainer, TrainingData, Validated, evaluate,
};

/// Records the mean rank of the true class, and stops when it is good enough.
struct MeanRank {
    good_enough: f64,
}

impl Callback for MeanRank {
    fn on_event(&mut self, event: &Event<'_>) -> CallbackResult {
        if let Event::Step { step, metrics, .. } = event
            && step % 10 == 0
        {
            println!("step {step}: loss {:.3}", metrics.loss);
        }
        let rank = event
            .last_epoch()
            .and_then(|epoch| epoch.custom.get("mean rank"));
        Ok(Control::stop_if(
            rank.is_some_and(|rank| *rank < self.good_enough),
        ))
    }

    fn epoch_metrics(&mut self, validated: &Validated<'_>) -> Result<Vec<(String, f64)>, BoxError> {
        let evaluation = evaluate(
            validated.model,
            TestTimeAugmentation::None,
            validated.validation,
            validated.preprocessing,
            validated.placement,
            &mut |_, _| (),
        )?;
        let ranks = evaluation
            .predictions
            .iter()
            .map(|prediction| f64::from(prediction.label_rank));
        let mean = ranks.sum::<f64>() / evaluation.predictions.len() as f64;
        Ok(vec![("mean rank".to_owned(), mean)])
    }
}

fn main() -> Result<(), BoxError> {
    let mut recipe = Preset::Quickstart.recipe();
    recipe.data.limit_train = Some(600);
    recipe.training.epochs = 4;
    let data = TrainingData::load(&recipe)?;
    let directory = tempfile::tempdir()?;
    let run = RunDirectory::create(directory.path().join("run"))?;
    let mut callbacks: Callbacks = vec![
        Box::new(MetricsFile::new(run.metrics())), // writes the metric too
        Box::new(MeanRank { good_enough: 5.0 }),
    ];
    let mut trainer = Trainer::start(recipe, data, run, Device::Cpu)?;
    trainer.fit(&mut callbacks)?;
    for epoch in trainer.history() {
        println!(
            "epoch {}: mean rank {:.2}",
            epoch.epoch, epoch.custom["mean rank"]
        );
    }
    Ok(())
}
