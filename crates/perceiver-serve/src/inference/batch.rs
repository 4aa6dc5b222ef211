//! Dynamic batching: the images that wait are classified together.

use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use crate::inference::queue::{Arriving, Job};

/// Takes batches from the queue.
pub(crate) struct Batches {
    pub(crate) jobs: Receiver<Job>,
    pub(crate) arriving: Arriving,
    /// The largest number of images of a batch.
    pub(crate) most: usize,
    /// The longest time that the first image waits for others.
    pub(crate) wait: Duration,
}

/// The pause between looks at whether more images will follow.
const LOOK_AGAIN: Duration = Duration::from_micros(200);

impl Batches {
    /// Waits for an image, and returns it with those that wait, or arrive while others are being
    /// decoded and the first has time; `None` when no more can come.
    pub(crate) fn next(&self) -> Option<Vec<Job>> {
        let first = self.jobs.recv().ok()?;
        let deadline = Instant::now() + self.wait;
        let mut batch = vec![first];
        while batch.len() < self.most {
            match self.jobs.try_recv() {
                Ok(job) => batch.push(job),
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() || !self.arriving.any() {
                        break;
                    }
                    match self.jobs.recv_timeout(left.min(LOOK_AGAIN)) {
                        Ok(job) => batch.push(job),
                        Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => break,
                    }
                }
            }
        }
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;
    use crate::inference::queue::Queue;
    use crate::metrics::Metrics;

    #[test]
    fn waiting_images_form_batches_of_at_most_the_limit() {
        let (queue, jobs, arriving) = Queue::new(9, Metrics::new(9));
        let batches = Batches {
            jobs,
            arriving,
            most: 4,
            wait: Duration::ZERO,
        };
        let input = || Tensor::zeros((1, 3, 2, 2), DType::F32, &Device::Cpu).unwrap();
        let mut answers = Vec::new();
        for place in queue.take_places(9).unwrap() {
            answers.push(queue.send(input(), false, place).unwrap());
        }
        drop(queue);
        let sizes: Vec<usize> = std::iter::from_fn(|| batches.next())
            .map(|batch| batch.len())
            .collect();
        assert_eq!(sizes, [4, 4, 1]);
    }

    #[test]
    fn a_batch_waits_for_images_that_are_being_decoded() {
        let (queue, jobs, arriving) = Queue::new(2, Metrics::new(2));
        let batches = Batches {
            jobs,
            arriving,
            most: 4,
            wait: Duration::from_mins(1),
        };
        let input = || Tensor::zeros((1, 3, 2, 2), DType::F32, &Device::Cpu).unwrap();
        let mut places = queue.take_places(2).unwrap();
        let first = queue.send(input(), false, places.pop().unwrap()).unwrap();
        let size = std::thread::scope(|scope| {
            let size = scope.spawn(move || batches.next().unwrap().len());
            let second = queue.send(input(), false, places.pop().unwrap()).unwrap();
            drop((first, second));
            size.join().unwrap()
        });
        // The second is either there in time or arrives while it is waited for.
        assert_eq!(size, 2);
    }
}
