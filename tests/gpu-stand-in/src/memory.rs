//! The GPU's memory: allocations in CPU memory, with bounds checks.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeMap;
use std::ops::Range;

/// The alignment of allocations, as in the driver.
const ALIGNMENT: usize = 256;

/// The allocations: sizes by address.
#[derive(Debug, Default)]
pub(crate) struct Allocations {
    pieces: BTreeMap<u64, usize>,
    used: usize,
    peak: usize,
}

impl Allocations {
    /// Allocates `size` bytes filled with ones, which are NaN in all floating-point types.
    pub(crate) fn allocate(&mut self, size: usize) -> u64 {
        // SAFETY: the layout has at least one byte.
        let start = unsafe {
            let start = alloc(layout(size));
            start.write_bytes(0xff, size);
            start as u64
        };
        self.pieces.insert(start, size);
        self.used += size;
        self.peak = self.peak.max(self.used);
        start
    }

    /// Frees an allocation.
    ///
    /// # Errors
    /// If none begins at this address.
    pub(crate) fn free(&mut self, start: u64) -> Result<(), String> {
        let size = self
            .pieces
            .remove(&start)
            .ok_or_else(|| format!("frees {start:#x}, where no memory begins"))?;
        self.used -= size;
        // SAFETY: the memory was allocated with this layout, and is no longer registered.
        unsafe { dealloc(start as *mut u8, layout(size)) };
        Ok(())
    }

    /// Returns the allocation that contains `size` bytes from `start`.
    ///
    /// # Errors
    /// If no single allocation contains them.
    pub(crate) fn piece(&self, start: u64, size: usize) -> Result<Range<u64>, String> {
        let previous = self.pieces.range(..=start).next_back();
        let before = match previous.map(|(at, length)| *at..*at + *length as u64) {
            Some(piece) if contains(&piece, start, size) => return Ok(piece),
            Some(piece) => format!(
                "the piece before it has {} bytes, and {start:#x} is byte {}",
                piece.end - piece.start,
                start - piece.start
            ),
            None => "there is no piece before it".to_string(),
        };
        Err(format!(
            "{size} bytes at {start:#x} are in no memory: {before}"
        ))
    }

    /// Returns the number of bytes in use, and its peak.
    pub(crate) fn usage(&self) -> [usize; 2] {
        [self.used, self.peak]
    }

    /// Resets the peak to the current number of bytes.
    pub(crate) fn reset_peak(&mut self) {
        self.peak = self.used;
    }
}

/// Whether an allocation contains `size` bytes from `start`.
pub(crate) fn contains(piece: &Range<u64>, start: u64, size: usize) -> bool {
    piece.start <= start && start.saturating_add(size as u64) <= piece.end
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size.max(1), ALIGNMENT).expect("a size that fits the memory")
}
