//! The one device: its memory, and what it still has to do.
//!
//! Work is done as late as the driver may: when somebody waits for it. What the host changes before that is seen.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::fs::File;
use std::io::{LineWriter, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::memory::Allocations;

/// Something to do, in its turn.
pub(crate) type Work = Box<dyn FnOnce(&mut Allocations) -> Result<(), String> + Send>;

/// Memory, work to do, and what went wrong.
#[derive(Default)]
pub(crate) struct Device {
    pub(crate) memory: Allocations,
    /// The host's memory that stays in its place, with its sizes.
    pub(crate) pinned: BTreeMap<usize, usize>,
    queue: VecDeque<Work>,
    /// How much of it was done so far.
    done: u64,
    failed: bool,
    trace: Trace,
}

/// Where calls are noted, if they are.
struct Trace(Option<LineWriter<File>>);

impl Default for Trace {
    fn default() -> Self {
        let path = std::env::var_os("GPU_STAND_IN_TRACE");
        let file = path.and_then(|path| File::create(path).ok());
        Self(file.map(LineWriter::new))
    }
}

static DEVICE: Mutex<Option<Device>> = Mutex::new(None);

/// The device for a test alone: whoever waits does the work of all.
#[cfg(test)]
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static TEST: Mutex<()> = Mutex::new(());
    TEST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The device, while nobody else has it.
pub(crate) fn with<R>(use_it: impl FnOnce(&mut Device) -> R) -> R {
    let mut device: MutexGuard<_> = DEVICE.lock().unwrap_or_else(PoisonError::into_inner);
    use_it(device.get_or_insert_default())
}

impl Device {
    /// Puts work at the end of the queue, and says which number it has. It is noted by its name.
    pub(crate) fn enqueue(
        &mut self,
        name: fmt::Arguments,
        work: impl FnOnce(&mut Allocations) -> Result<(), String> + Send + 'static,
    ) -> u64 {
        self.note(name);
        self.queue.push_back(Box::new(work));
        self.last()
    }

    /// The number of what is last in the queue.
    fn last(&self) -> u64 {
        self.done + self.queue.len() as u64
    }

    /// Writes a line to the file that `GPU_STAND_IN_TRACE` names.
    pub(crate) fn note(&mut self, line: fmt::Arguments) {
        if let Some(file) = &mut self.trace.0 {
            // A full disk is no reason to stop.
            let _ = writeln!(file, "{line}");
        }
    }

    /// Whether so many bytes of the host stay in their place.
    pub(crate) fn pins(&self, start: usize, size: usize) -> bool {
        let piece = self.pinned.range(..=start).next_back();
        piece.is_some_and(|(at, length)| start + size <= at + length)
    }

    /// Does all work up to this number; whether nothing ever went wrong.
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

    /// Does all work.
    pub(crate) fn finish_all(&mut self) -> bool {
        self.finish(self.last())
    }
}
