//! Trains on a data set that is read by index: images that need not fit in memory.
//!
//! `cargo run --example custom_data`

use candle_core::Device;
use perceiver_data::{BoxError, Image, MapDataset, Samples};
use perceiver_train::{Preset, RunDirectory, Trainer, TrainingData};

/// Horizontal and vertical stripes. A data set of yours would read a database or an archive.
struct Stripes {
    classes: Vec<String>,
    labels: Vec<u32>,
}

impl Stripes {
    fn new(count: u32) -> Self {
        Self {
            classes: vec!["horizontal".to_owned(), "vertical".to_owned()],
            labels: (0..count).map(|index| index % 2).collect(),
        }
    }
}

impl MapDataset for Stripes {
    fn name(&self) -> &'static str {
        "stripes"
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn image(&self, index: usize) -> Result<Image, BoxError> {
        let (is_vertical, period) = (self.labels[index] == 1, 2 + index / 2 % 5);
        let mut pixels = Vec::with_capacity(3 * 32 * 32);
        for (y, x) in (0..32).flat_map(|y| (0..32).map(move |x| (y, x))) {
            let along = if is_vertical { x } else { y };
            let value = if along / period % 2 == 0 { 30 } else { 220 };
            pixels.extend([value; 3]);
        }
        Ok(Image::from_interleaved(32, 32, &pixels)?)
    }

    fn fingerprint(&self) -> String {
        format!("stripes 1, {} images", self.labels.len())
    }
}

fn main() -> Result<(), BoxError> {
    let mut recipe = Preset::Quickstart.recipe();
    recipe.training.epochs = 3;
    recipe.training.batch_size = 16;
    let data = TrainingData::new(Samples::map(Stripes::new(160))?, &recipe)?;
    let directory = tempfile::tempdir()?;
    let run = RunDirectory::create(directory.path().join("stripes"))?;
    let mut trainer = Trainer::start(recipe, data, run, Device::Cpu)?;
    trainer.fit(&mut ())?;
    let results = trainer.test(&Samples::map(Stripes::new(40))?, &mut ())?;
    println!("accuracy {:.1}%", 100.0 * results.acc);
    Ok(())
}
