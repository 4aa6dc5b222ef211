//! Progress of loading a data set, for progress bars.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A long-running phase of loading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Work<'a> {
    /// Downloading a file, given by its path in the repository; counted in bytes.
    Download(&'a str),
    /// Decoding images.
    Decode,
    /// Computing mean and variance of images.
    Adapt,
}

/// The progress of a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadProgress<'a> {
    /// The phase.
    pub work: Work<'a>,
    /// Bytes or images done.
    pub done: u64,
    /// Bytes or images in total.
    pub total: u64,
}

/// A function that receives progress.
type Listener = dyn Fn(&LoadProgress<'_>) + Send + Sync;

/// A callback for progress, called from any thread while data is read; by default there is none.
/// Any two compare equal, since the callback does not affect the data.
#[derive(Clone, Default)]
pub struct ProgressCallback(Option<Arc<Listener>>);

impl ProgressCallback {
    /// Wraps a function.
    pub fn new(callback: impl Fn(&LoadProgress<'_>) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(callback)))
    }

    /// Reports progress to the function, if there is one.
    pub fn report(&self, reading: &LoadProgress<'_>) {
        if let Some(callback) = &self.0 {
            callback(reading);
        }
    }

    /// Returns a counter of the images of a phase.
    pub(crate) fn counter(&self, work: Work<'static>, total: usize) -> Counter<'_> {
        Counter {
            watcher: self,
            work,
            total: total as u64,
            done: AtomicU64::new(0),
        }
    }
}

impl PartialEq for ProgressCallback {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Debug for ProgressCallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.0.is_some() {
            "someone"
        } else {
            "nobody"
        };
        f.debug_tuple("ProgressCallback").field(&name).finish()
    }
}

/// A thread-safe counter of finished images.
pub(crate) struct Counter<'a> {
    watcher: &'a ProgressCallback,
    work: Work<'static>,
    total: u64,
    done: AtomicU64,
}

impl Counter<'_> {
    /// Counts one image and reports progress.
    pub(crate) fn one_more(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        self.watcher.report(&LoadProgress {
            work: self.work,
            done,
            total: self.total,
        });
    }
}
