//! Batches that are on the device before they are needed: a thread of its own copies them there while the step before is computed.

use std::sync::mpsc::sync_channel;
use std::thread;

use candle_core::Device;
use perceiver_data::Batch;
use perceiver_ops::Upload;

use crate::error::Result;

/// Batches that lie ready on the device.
const READY: usize = 2;

/// The batches, in their order, with their pictures on `device`; the CPU gets them as they come.
pub(crate) fn ahead(
    batches: impl Iterator<Item = perceiver_data::Result<Batch>> + Send + 'static,
    device: &Device,
) -> Box<dyn Iterator<Item = Result<Batch>>> {
    if device.is_cpu() {
        return Box::new(batches.map(|batch| Ok(batch?)));
    }
    let mut upload = Upload::new(device);
    let (sender, receiver) = sync_channel(READY);
    // It ends with the batches, or once nobody takes them.
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
