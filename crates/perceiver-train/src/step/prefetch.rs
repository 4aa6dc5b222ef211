//! Prefetches batches to the device on a background thread.

use std::sync::mpsc::sync_channel;
use std::thread;

use candle_core::Device;
use perceiver_data::Batch;
use perceiver_ops::Upload;

use crate::error::Result;

/// The number of batches that wait on the device.
const READY: usize = 2;

/// Returns the batches in order, with their images on `device`. On the CPU, there is no prefetch.
pub(crate) fn prefetched(
    batches: impl Iterator<Item = perceiver_data::Result<Batch>> + Send + 'static,
    device: &Device,
) -> Box<dyn Iterator<Item = Result<Batch>>> {
    if device.is_cpu() {
        return Box::new(batches.map(|batch| Ok(batch?)));
    }
    let mut upload = Upload::new(device);
    let (sender, receiver) = sync_channel(READY);
    // The thread ends with the batches, or when the receiver is dropped.
    thread::spawn(move || {
        for batch in batches {
            let batch = batch.map_err(Into::into).and_then(|batch| {
                let images = upload.copy(&batch.images)?;
                Ok(Batch { images, ..batch })
            });
            if sender.send(batch).is_err() {
                return;
            }
        }
    });
    Box::new(receiver.into_iter())
}
