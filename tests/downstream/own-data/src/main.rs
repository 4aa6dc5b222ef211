//! Trains on images of its own, with a callback and an optimizer of its own.

use candle_core::{Device, Tensor};
use perceiver_data::{BoxError, Dataset, Image};
use perceiver_model::Parameters;
use perceiver_train::{
    Control, Event, Gradients, Optimizer, OptimizerState, Preset, Result, RunDirectory, Trainer,
    TrainingData,
};

/// Descent along the sign of the momentum (Bernstein et al., "signSGD", 2018).
#[derive(Default)]
struct Signum {
    learning_rate: f32,
    state: OptimizerState,
}

impl Optimizer for Signum {
    fn step(&mut self, parameters: &Parameters, gradients: &Gradients) -> Result<()> {
        self.state.steps += 1;
        for (name, parameter) in parameters.iter() {
            let gradient = gradients.of_parameter(name)?;
            let momentum = match self.state.tensors.get(name) {
                Some(before) => ((before * 0.9)? + (gradient * 0.1)?)?,
                None => gradient.clone(),
            };
            let step = (momentum.sign()? * f64::from(self.learning_rate))?;
            parameter.set(&(parameter.as_tensor() - step)?)?;
            self.state.tensors.insert(name.to_owned(), momentum);
        }
        Ok(())
    }
    fn set_learning_rate(&mut self, learning_rate: f32) {
        self.learning_rate = learning_rate;
    }
    fn state(&self) -> Result<OptimizerState> {
        Ok(self.state.clone())
    }
    fn restore(&mut self, state: OptimizerState) {
        self.state = state;
    }
}

/// Images of 16 x 16 pixels whose red, green or blue channel is the brightest.
fn tints(count: u8) -> Result<Dataset> {
    let plane = |at: u8, channel| [20 * (at % 7) + 90 * u8::from(at % 3 == channel); 16 * 16];
    let image = |at| Image::new(16, 16, [0, 1, 2].map(|channel| plane(at, channel)).concat());
    let images = (0..count).map(image).collect::<Result<_, _>>()?;
    let classes = ["red", "green", "blue"].map(String::from).to_vec();
    let labels = (0..count).map(|at| u32::from(at % 3)).collect();
    Ok(Dataset::new("tints", images, labels, classes)?)
}

fn main() -> Result<(), BoxError> {
    let mut recipe = Preset::Quickstart.recipe();
    recipe.training.epochs = 20;
    recipe.training.batch_size = 16;
    recipe.training.learning_rate = 1e-3;
    let data = TrainingData::new(tints(120)?, &recipe)?;
    let directory = tempfile::tempdir()?;
    let run = RunDirectory::create(directory.path().join("run"))?;
    let trainer = Trainer::start(recipe, data, run, Device::Cpu)?;
    let mut trainer = trainer.with_optimizer("signum", Signum::default());

    // Stops as soon as the validation images are classified.
    trainer.fit(&mut |event: &Event<'_>| {
        let last = event.last_epoch();
        Ok(Control::stop_if(
            last.is_some_and(|last| last.val_acc == 1.0),
        ))
    })?;
    let test = tints(60)?.into();
    let results = trainer.test(&test, &mut ())?;
    perceiver_report::write_report(trainer.run(), &test)?;
    println!("accuracy {}", results.acc);
    assert!(results.acc > 0.9 && trainer.run().report().exists());
    Ok(())
}
