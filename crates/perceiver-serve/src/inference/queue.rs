//! The queue of images before the model, with a bounded number of places.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use candle_core::Tensor;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::http::api_error::ApiError;
use crate::inference::attention::AttentionMaps;
use crate::metrics::Metrics;

/// The result of the model for an image.
#[derive(Debug)]
pub(crate) struct Classified {
    /// One per class.
    pub(crate) probabilities: Vec<f32>,
    /// If they were asked for.
    pub(crate) attention: Option<AttentionMaps>,
}

/// An image that waits for the model.
pub(crate) struct Job {
    /// `[1, 3, side, side]` on the CPU.
    pub(crate) input: Tensor,
    pub(crate) with_attention: bool,
    pub(crate) answer: oneshot::Sender<Result<Classified, ApiError>>,
    /// The place in the queue, free again when the image is classified.
    pub(crate) place: Place,
}

/// The queue: places are taken before images are decoded.
pub(crate) struct Queue {
    sender: SyncSender<Job>,
    places: Arc<Semaphore>,
    arriving: Arriving,
    metrics: Metrics,
}

/// The number of images that have a place and are not before the model yet.
#[derive(Clone, Default)]
pub(crate) struct Arriving(Arc<AtomicUsize>);

impl Arriving {
    /// Whether an image will follow soon.
    pub(crate) fn any(&self) -> bool {
        self.0.load(Ordering::Acquire) > 0
    }
}

/// A place in the queue for an image.
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
    /// Set until the image is before the model.
    arriving: Option<Arriving>,
    metrics: Metrics,
}

impl Place {
    fn arrived(&mut self) {
        if let Some(arriving) = self.arriving.take() {
            arriving.0.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.arrived();
        self.metrics.queued.dec();
    }
}

impl Queue {
    /// Creates a queue with `places` places. Returns what the model's thread takes from it.
    pub(crate) fn new(places: usize, metrics: Metrics) -> (Self, Receiver<Job>, Arriving) {
        let (sender, receiver) = sync_channel(places);
        let arriving = Arriving::default();
        let queue = Self {
            sender,
            places: Arc::new(Semaphore::new(places)),
            arriving: arriving.clone(),
            metrics,
        };
        (queue, receiver, arriving)
    }

    /// Takes places for `images` images.
    ///
    /// # Errors
    /// [`ApiError::QueueFull`] when there are not as many.
    pub(crate) fn take_places(&self, images: usize) -> Result<Vec<Place>, ApiError> {
        let permits = Arc::clone(&self.places).try_acquire_many_owned(images as u32);
        let mut permits = permits.map_err(|_| ApiError::QueueFull {
            wanted: format!("{images} image{}", if images == 1 { "" } else { "s" }),
        })?;
        let mut places = Vec::with_capacity(images);
        while let Some(permit) = permits.split(1) {
            self.arriving.0.fetch_add(1, Ordering::AcqRel);
            self.metrics.queued.inc();
            places.push(Place {
                _permit: permit,
                arriving: Some(self.arriving.clone()),
                metrics: self.metrics.clone(),
            });
        }
        Ok(places)
    }

    /// Puts an image before the model. Returns where its result will be.
    ///
    /// # Errors
    /// When the model's thread has ended.
    pub(crate) fn send(
        &self,
        input: Tensor,
        with_attention: bool,
        mut place: Place,
    ) -> Result<oneshot::Receiver<Result<Classified, ApiError>>, ApiError> {
        let (answer, receiver) = oneshot::channel();
        place.arrived();
        let job = Job {
            input,
            with_attention,
            answer,
            place,
        };
        // There is room for as many images as there are places.
        self.sender.try_send(job).map_err(|_| gone())?;
        Ok(receiver)
    }
}

/// The error when the model's thread has ended.
pub(crate) fn gone() -> ApiError {
    ApiError::Model {
        finding: "model: expected a result, found that its thread has ended".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn places_are_bounded_and_come_back() {
        let (queue, receiver, arriving) = Queue::new(3, Metrics::new(3));
        let mut two = queue.take_places(2).unwrap();
        assert!(arriving.any());
        let error = queue.take_places(2).err().unwrap();
        assert_eq!(
            error.to_string(),
            "queue: expected room for 2 images, found it full"
        );
        let input = Tensor::zeros((1, 3, 2, 2), DType::F32, &Device::Cpu).unwrap();
        let answer = queue.send(input, false, two.pop().unwrap()).unwrap();
        drop(two);
        assert!(!arriving.any());
        assert!(queue.take_places(2).is_ok() && queue.take_places(3).is_err());
        drop(receiver.recv().unwrap());
        assert!(queue.take_places(3).is_ok());
        drop(answer);
    }
}
