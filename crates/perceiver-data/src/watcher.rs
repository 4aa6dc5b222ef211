//! Who is told how far the reading of a data set is, as a progress bar is.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What takes long in reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Work<'a> {
    /// A file arrives, by its path in its repository; counted in bytes.
    Download(&'a str),
    /// Pictures are decoded.
    Decode,
    /// Mean and variance of pictures are taken.
    Adapt,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading<'a> {
    /// What is being done.
    pub work: Work<'a>,
    /// Bytes or pictures done.
    pub done: u64,
    /// Bytes or pictures in all.
    pub total: u64,
}

/// What is told how far reading is.
type Told = dyn Fn(&Reading<'_>) + Send + Sync;

/// Calls a function while data are read, from any thread; by default nobody is told. Any two are equal: what is read does not
/// depend on who watches.
#[derive(Clone, Default)]
pub struct Watcher(Option<Arc<Told>>);

impl Watcher {
    /// Tells `told`.
    pub fn new(told: impl Fn(&Reading<'_>) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(told)))
    }

    /// Passes on how far reading is.
    pub fn tell(&self, reading: &Reading<'_>) {
        if let Some(told) = &self.0 {
            told(reading);
        }
    }

    /// Counts the pictures of some work.
    pub(crate) fn counter(&self, work: Work<'static>, total: usize) -> Counter<'_> {
        Counter {
            watcher: self,
            work,
            total: total as u64,
            done: AtomicU64::new(0),
        }
    }
}

impl PartialEq for Watcher {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.0.is_some() {
            "someone"
        } else {
            "nobody"
        };
        f.debug_tuple("Watcher").field(&name).finish()
    }
}

/// Counts what threads have done together.
pub(crate) struct Counter<'a> {
    watcher: &'a Watcher,
    work: Work<'static>,
    total: u64,
    done: AtomicU64,
}

impl Counter<'_> {
    /// One more is done.
    pub(crate) fn one_more(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        self.watcher.tell(&Reading {
            work: self.work,
            done,
            total: self.total,
        });
    }
}
