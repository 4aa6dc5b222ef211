//! Classifies images with a trained model.
//!
//! `cargo run --example predict -- runs/shapes-quickstart-1 image.png ...`

use candle_core::Device;
use perceiver_data::{BoxError, Image};
use perceiver_train::Checkpoint;

fn main() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("usage: predict RUN IMAGE...")?;
    let checkpoint = Checkpoint::open(&directory, &Device::Cpu)?;
    let classes = &checkpoint.config.classes;
    for path in arguments {
        let image = Image::open(&path)?;
        let probabilities = checkpoint.classify(&[image])?.remove(0); // [classes]
        let mut ranked: Vec<(f32, &String)> = probabilities.into_iter().zip(classes).collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (probability, class) in ranked.iter().take(3) {
            println!("{path}: {class} {:.1}%", 100.0 * probability);
        }
    }
    Ok(())
}
