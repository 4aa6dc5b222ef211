//! An iterator over the batches of one epoch, filled by a background thread.

use std::any::Any;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{Builder, JoinHandle};

use crate::error::{DataError, Result};
use crate::loader::batch::Batch;

/// An iterator over the batches of one epoch, in order, built ahead by a background thread.
/// Dropping it stops the thread.
pub struct Epoch {
    /// The channel from the thread; `None` after the last batch.
    batches: Option<Receiver<Result<Batch>>>,
    thread: Option<JoinHandle<()>>,
    /// The error that prevented the thread from starting.
    failure: Option<DataError>,
}

impl Epoch {
    /// Starts a thread that builds batches until `prefetch` of them wait.
    pub(crate) fn start<I>(prefetch: usize, batches: impl FnOnce() -> I + Send + 'static) -> Self
    where
        I: Iterator<Item = Result<Batch>>,
    {
        let (sender, receiver) = sync_channel(prefetch);
        let thread = Builder::new().name("loader".to_owned()).spawn(move || {
            // Sending fails once the receiver is dropped: the remaining batches are not needed.
            let _ = batches().try_for_each(|batch| sender.send(batch));
        });
        match thread {
            Ok(thread) => Self {
                batches: Some(receiver),
                thread: Some(thread),
                failure: None,
            },
            Err(error) => Self {
                batches: None,
                thread: None,
                failure: Some(DataError::Loader {
                    reason: error.to_string(),
                }),
            },
        }
    }

    /// Waits for the thread to end, and returns its panic as an error.
    fn join(&mut self) -> Option<DataError> {
        // Drops the receiver first: a thread that blocks in `send` would never end.
        self.batches = None;
        let panic = self.thread.take()?.join().err()?;
        Some(DataError::Loader {
            reason: message(panic.as_ref()),
        })
    }
}

impl Iterator for Epoch {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        let received = self
            .batches
            .as_ref()
            .and_then(|batches| batches.recv().ok());
        received.or_else(|| self.failure.take().or_else(|| self.join()).map(Err))
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        self.join();
    }
}

/// Returns the message of a panic.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "its thread panicked".to_owned())
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;

    fn empty_batch() -> Result<Batch> {
        Ok(Batch {
            images: Tensor::zeros((0, 3, 1, 1), DType::F32, &Device::Cpu)?,
            labels: Tensor::zeros(0, DType::U32, &Device::Cpu)?,
            mixed: None,
            indices: Vec::new(),
        })
    }

    #[test]
    fn a_panic_of_the_thread_is_an_error_of_the_consumer() {
        for prefetch in 0..3 {
            let batch = |i| {
                if i < 1 {
                    empty_batch()
                } else {
                    panic!("bad luck")
                }
            };
            let mut epoch = Epoch::start(prefetch, move || (0..3).map(batch));
            assert!(epoch.next().unwrap().is_ok());
            let message = epoch.next().unwrap().unwrap_err().to_string();
            assert!(message.contains("bad luck"), "{message}");
            assert!(epoch.next().is_none());
        }
    }

    #[test]
    fn an_endless_epoch_can_be_dropped() {
        let mut epoch = Epoch::start(1, || std::iter::repeat_with(empty_batch));
        assert!(epoch.next().unwrap().is_ok());
        drop(epoch); // joins the thread: a deadlock would hang here
    }
}
