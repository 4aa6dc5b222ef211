//! The GPU's memory: pieces of the CPU's, which nobody may leave.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeMap;
use std::ops::Range;

/// Where pieces begin, as the driver has it.
const ALIGNMENT: usize = 256;

/// Pieces by their addresses, with their sizes.
#[derive(Debug, Default)]
pub(crate) struct Allocations {
    pieces: BTreeMap<u64, usize>,
    used: usize,
    most: usize,
}

impl Allocations {
    /// A piece of this many bytes, full of ones: numbers that are none.
    pub(crate) fn allocate(&mut self, size: usize) -> u64 {
        // SAFETY: a layout with at least a byte.
        let start = unsafe {
            let start = alloc(layout(size));
            start.write_bytes(0xff, size);
            start as u64
        };
        self.pieces.insert(start, size);
        self.used += size;
        self.most = self.most.max(self.used);
        start
    }

    /// Gives a piece back.
    ///
    /// # Errors
    /// There is none at this address.
    pub(crate) fn free(&mut self, start: u64) -> Result<(), String> {
        let size = self
            .pieces
            .remove(&start)
            .ok_or_else(|| format!("frees {start:#x}, where no memory begins"))?;
        self.used -= size;
        // SAFETY: it was allocated with this layout, and is forgotten.
        unsafe { dealloc(start as *mut u8, layout(size)) };
        Ok(())
    }

    /// The piece that so many bytes from `start` lie in.
    ///
    /// # Errors
    /// When they do not lie in one.
    pub(crate) fn piece(&self, start: u64, size: usize) -> Result<Range<u64>, String> {
        let found = self.pieces.range(..=start).next_back();
        let before = match found.map(|(at, length)| *at..*at + *length as u64) {
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

    /// Bytes now, and at most so far.
    pub(crate) fn usage(&self) -> [usize; 2] {
        [self.used, self.most]
    }

    /// Forgets how many there were at most.
    pub(crate) fn forget_most(&mut self) {
        self.most = self.used;
    }
}

/// Whether so many bytes from `start` lie in a piece.
pub(crate) fn contains(piece: &Range<u64>, start: u64, size: usize) -> bool {
    piece.start <= start && start.saturating_add(size as u64) <= piece.end
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size.max(1), ALIGNMENT).expect("a size that fits the memory")
}
