//! The model's thread: classifies one batch after another, with threads of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use candle_core::Tensor;
use perceiver_train::{Predictor, TrainError};
use rayon::ThreadPoolBuilder;

use crate::error::{Result, ServeError};
use crate::http::api_error::ApiError;
use crate::inference::attention::AttentionMaps;
use crate::inference::batch::Batches;
use crate::inference::queue::{Classified, Job};
use crate::metrics::Metrics;

/// Starts the model's thread, which ends when no more images can come.
///
/// # Errors
/// When the system has no more threads.
pub(crate) fn start(
    predictor: Arc<Predictor>,
    batches: Batches,
    metrics: Metrics,
) -> Result<JoinHandle<()>> {
    let failed = |source: std::io::Error| ServeError::System {
        action: "start the model's threads",
        source,
    };
    // A pool of its own: its first thread runs the model, so that starting parallel work is cheap, and
    // what other threads compute does not come between.
    let pool = ThreadPoolBuilder::new().thread_name(|index| format!("model-{index}"));
    let pool = pool
        .build()
        .map_err(|error| failed(std::io::Error::other(error)))?;
    let model = Model { predictor, metrics };
    let run = move || {
        pool.install(move || {
            while let Some(batch) = batches.next() {
                model.answer(batch);
            }
        });
    };
    thread::Builder::new()
        .name("model".to_string())
        .spawn(run)
        .map_err(failed)
}

/// The model, and where its times are counted.
struct Model {
    predictor: Arc<Predictor>,
    metrics: Metrics,
}

/// The probabilities of every image.
type Probabilities = Vec<Vec<f32>>;

impl Model {
    /// Classifies the images of a batch and sends the results.
    fn answer(&self, mut batch: Vec<Job>) {
        batch.retain(|job| !job.answer.is_closed()); // its client is gone, or no longer waits
        if batch.is_empty() {
            return;
        }
        let started = Instant::now();
        let results = self.probabilities(&batch);
        self.metrics.batch_images.observe(batch.len() as f64);
        self.metrics
            .batch_seconds
            .observe(started.elapsed().as_secs_f64());
        for (job, result) in batch.into_iter().zip(results) {
            let result = result.and_then(|probabilities| {
                let attention = job.with_attention.then(|| self.attention(&job.input));
                Ok(Classified {
                    probabilities,
                    attention: attention.transpose()?,
                })
            });
            drop(job.place);
            let _ = job.answer.send(result); // the client may be gone
        }
    }

    /// Returns the probabilities of each image. If a batch fails, its images are classified one by
    /// one, so that an image fails for itself alone.
    fn probabilities(&self, batch: &[Job]) -> Vec<Result<Vec<f32>, ApiError>> {
        let inputs: Vec<&Tensor> = batch.iter().map(|job| &job.input).collect();
        match self.classified(&inputs) {
            Ok(all) => all.into_iter().map(Ok).collect(),
            Err(error) if batch.len() == 1 => vec![Err(error)],
            Err(_) => {
                let alone = inputs.iter().map(|input| self.classified(&[input]));
                alone.map(|result| result.map(|all| all.concat())).collect()
            }
        }
    }

    fn classified(&self, inputs: &[&Tensor]) -> Result<Probabilities, ApiError> {
        let classify = || -> Result<Probabilities, TrainError> {
            self.predictor
                .probabilities_of_input(&Tensor::cat(inputs, 0)?)
        };
        contained(|| {
            classify().map_err(|error| ApiError::Model {
                finding: error.to_string(),
            })
        })
    }

    fn attention(&self, input: &Tensor) -> Result<AttentionMaps, ApiError> {
        contained(|| AttentionMaps::of(&self.predictor, input))
    }
}

/// Converts a panic to an error, so that the thread goes on.
fn contained<T>(compute: impl FnOnce() -> Result<T, ApiError>) -> Result<T, ApiError> {
    let panicked = |_| {
        Err(ApiError::Model {
            finding: "model: expected a result, found a panic".to_string(),
        })
    };
    catch_unwind(AssertUnwindSafe(compute)).unwrap_or_else(panicked)
}
