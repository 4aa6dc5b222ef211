//! The emulated device: its memory, and its queue of pending work.
//!
//! Work is executed as late as the driver permits: when the host waits for it. This reveals host
//! memory that is changed too early.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::fs::File;
use std::io::{LineWriter, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::memory::Allocations;

/// An operation in the queue.
pub(crate) type Work = Box<dyn FnOnce(&mut Allocations) -> Result<(), String> + Send>;

/// The memory, the queue, and whether an operation has failed.
#[derive(Default)]
pub(crate) struct Device {
    pub(crate) memory: Allocations,
    /// Pinned memory of the host: sizes by address.
    pub(crate) pinned: BTreeMap<usize, usize>,
    queue: VecDeque<Work>,
    /// The number of operations executed so far.
    done: u64,
    failed: bool,
    trace: Trace,
}

/// The trace file, if tracing is enabled.
struct Trace(Option<LineWriter<File>>);

impl Default for Trace {
    fn default() -> Self {
        let path = std::env::var_os("GPU_STAND_IN_TRACE");
        let file = path.and_then(|path| File::create(path).ok());
        Self(file.map(LineWriter::new))
    }
}

static DEVICE: Mutex<Option<Device>> = Mutex::new(None);

/// Locks the device for a test, since waiting executes the work of all tests.
#[cfg(test)]
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static TEST: Mutex<()> = Mutex::new(());
    TEST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls a function with exclusive access to the device.
pub(crate) fn with<R>(function: impl FnOnce(&mut Device) -> R) -> R {
    let mut device: MutexGuard<_> = DEVICE.lock().unwrap_or_else(PoisonError::into_inner);
    function(device.get_or_insert_default())
}

impl Device {
    /// Appends an operation to the queue, traces its name, and returns its number.
    pub(crate) fn enqueue(
        &mut self,
        name: fmt::Arguments,
        work: impl FnOnce(&mut Allocations) -> Result<(), String> + Send + 'static,
    ) -> u64 {
        self.write_trace(name);
        self.queue.push_back(Box::new(work));
        self.last()
    }

    /// Returns the number of the last operation in the queue.
    fn last(&self) -> u64 {
        self.done + self.queue.len() as u64
    }

    /// Writes a line to the file that `GPU_STAND_IN_TRACE` names.
    pub(crate) fn write_trace(&mut self, line: fmt::Arguments) {
        if let Some(file) = &mut self.trace.0 {
            // A full disk must not stop the program.
            let _ = writeln!(file, "{line}");
        }
    }

    /// Whether these bytes of the host are pinned.
    pub(crate) fn pins(&self, start: usize, size: usize) -> bool {
        let piece = self.pinned.range(..=start).next_back();
        piece.is_some_and(|(at, length)| start + size <= at + length)
    }

    /// Executes all operations up to this number. Returns whether no operation has ever failed.
    pub(crate) fn finish(&mut self, number: u64) -> bool {
        while self.done < number
            && let Some(work) = self.queue.pop_front()
        {
            self.done += 1;
            if !self.failed
                && let Err(finding) = work(&mut self.memory)
            {
                eprintln!("the stand-in for a GPU stops: {finding}");
                self.failed = true;
            }
        }
        !self.failed
    }

    /// Executes all operations.
    pub(crate) fn finish_all(&mut self) -> bool {
        self.finish(self.last())
    }
}
