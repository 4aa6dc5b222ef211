//! Runs a thread until it waits for others.

use std::ops::Range;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::block::Launch;
use super::kernel::{Action, Address, Kernel, Space};
use super::number::Type;
use crate::memory::{Allocations, contains};

/// The state of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// It can run.
    #[default]
    Running,
    /// It waits at a barrier of its block.
    AtBarrier,
    /// It waits for a shuffle of its warp.
    AtShuffle,
    /// It has ended.
    Done,
}

/// A thread of a block.
#[derive(Debug, Clone, Default)]
pub struct Thread {
    pub state: State,
    /// The index of the next instruction.
    pub next: usize,
}

impl Thread {
    /// Runs the thread until it waits or ends.
    ///
    /// # Errors
    /// If it performs an invalid operation.
    pub fn resume(
        &mut self,
        kernel: &Kernel,
        registers: &mut [u64],
        memory: &mut Memory,
    ) -> Result<(), String> {
        while self.state == State::Running {
            let Some(instruction) = kernel.code.get(self.next) else {
                self.state = State::Done;
                break;
            };
            if let Some((predicate, expected)) = instruction.guard
                && (registers[predicate] & 1 == 1) != expected
            {
                self.next += 1;
                continue;
            }
            match &instruction.action {
                Action::Branch(to) => self.next = *to,
                Action::Return => self.state = State::Done,
                Action::Shuffle(..) => self.state = State::AtShuffle,
                Action::Barrier => {
                    self.next += 1;
                    self.state = State::AtBarrier;
                }
                Action::Compute(function, to, [a, b, c]) => {
                    registers[*to] = function(registers[*a], registers[*b], registers[*c]);
                    self.next += 1;
                }
                action => {
                    execute(action, registers, memory)?;
                    self.next += 1;
                }
            }
        }
        Ok(())
    }
}

/// Executes an operation that does not affect control flow.
fn execute(action: &Action, registers: &mut [u64], memory: &mut Memory) -> Result<(), String> {
    match action {
        Action::Convert(conversion, to, from) => registers[*to] = conversion.of(registers[*from]),
        Action::Compare(order, relation, to, [a, b]) => {
            registers[*to] = u64::from(relation(order(registers[*a], registers[*b])));
        }
        Action::Select(to, [a, b, predicate]) => {
            registers[*to] = registers[if registers[*predicate] & 1 == 1 {
                *a
            } else {
                *b
            }];
        }
        Action::Insert(to, operands) => {
            let [bits, into, position, count] = operands.map(|operand| registers[operand]);
            let mask = (!0u64).checked_shl(count as u32).map_or(!0, |rest| !rest);
            let mask = mask.checked_shl(position as u32).unwrap_or(0);
            let bits = bits.checked_shl(position as u32).unwrap_or(0);
            registers[*to] = into & !mask | bits & mask;
        }
        Action::Pack(to, from, bits) => {
            let mask = !0 >> (64 - bits);
            let parts = from
                .iter()
                .zip(0..)
                .map(|(from, index)| (registers[*from] & mask) << (index * bits));
            registers[*to] = parts.fold(0, |packed, part| packed | part);
        }
        Action::Unpack(to, from, bits) => {
            let packed = registers[*from];
            for (index, to) in to.iter().enumerate() {
                registers[*to] = packed >> (index * bits) & (!0 >> (64 - bits));
            }
        }
        Action::Load(kind, to, address) => {
            let size = kind.size();
            let pointer = memory.pointer(registers, *address, size * to.len())?;
            for (index, to) in to.iter().enumerate() {
                // SAFETY: `pointer` is valid for reading all values.
                registers[*to] = unsafe { kind.load(pointer.add(index * size)) };
            }
        }
        Action::Store(kind, from, address) => {
            let size = kind.size();
            let pointer = memory.pointer(registers, *address, size * from.len())?;
            for (index, from) in from.iter().enumerate() {
                // SAFETY: `pointer` is valid for writing all values. Blocks may race, as on a GPU.
                unsafe { kind.store(pointer.add(index * size), registers[*from]) };
            }
        }
        Action::Atomic(kind, function, to, address, with) => {
            let pointer = memory.pointer(registers, *address, kind.size())?;
            let with = registers[*with];
            // SAFETY: `pointer` is aligned, and valid for reading and writing this type.
            let before = unsafe { change(pointer, *kind, |value| function(value, with, 0)) }?;
            if let Some(to) = to {
                registers[*to] = before;
            }
        }
        Action::Unknown(statement) => return Err(format!("not known here: {statement}")),
        Action::Compute(..)
        | Action::Branch(_)
        | Action::Return
        | Action::Shuffle(..)
        | Action::Barrier => {
            unreachable!("the thread does these itself")
        }
    }
    Ok(())
}

/// The memory that a thread can access.
pub struct Memory<'a> {
    /// The index of the current thread.
    pub thread: usize,
    gpu: &'a Allocations,
    /// The GPU allocation of the last access.
    piece: Range<u64>,
    shared: Vec<u8>,
    /// The local memory of all threads, one thread after another.
    local: Vec<u8>,
    local_size: usize,
    parameters: Vec<u8>,
}

impl<'a> Memory<'a> {
    /// Creates the memory of a block, filled with ones, so that uninitialized memory is never 0.
    pub fn new(launch: &Launch<'a>, threads: usize) -> Self {
        let local_size = launch.kernel.local;
        Self {
            thread: 0,
            gpu: launch.memory,
            piece: 0..0,
            shared: vec![0xff; launch.shared],
            local: vec![0xff; threads * local_size],
            local_size,
            parameters: launch.parameters.to_vec(),
        }
    }

    /// Returns the host address of `size` bytes.
    fn pointer(
        &mut self,
        registers: &[u64],
        address: Address,
        size: usize,
    ) -> Result<*mut u8, String> {
        let start = registers[address.base].wrapping_add_signed(address.offset);
        if !start.is_multiple_of(size as u64) {
            return Err(format!(
                "{size} bytes at {start:#x}, which is no multiple of it"
            ));
        }
        let own = self.thread * self.local_size..(self.thread + 1) * self.local_size;
        let bytes = match address.space {
            Space::Global => {
                if !contains(&self.piece, start, size) {
                    self.piece = self.gpu.piece(start, size)?;
                }
                return Ok(start as *mut u8);
            }
            Space::Shared => &mut self.shared[..],
            Space::Local => &mut self.local[own],
            Space::Parameter => &mut self.parameters[..],
        };
        let available = bytes.len();
        let bytes = bytes.get_mut(start as usize..(start as usize).saturating_add(size));
        bytes.map(<[u8]>::as_mut_ptr).ok_or_else(|| {
            format!(
                "{size} bytes at {start} of {available} in {:?} memory",
                address.space
            )
        })
    }
}

/// Atomically replaces a value by the result of `change`, and returns the old value.
unsafe fn change(pointer: *mut u8, kind: Type, change: impl Fn(u64) -> u64) -> Result<u64, String> {
    const ORDER: Ordering = Ordering::SeqCst;
    macro_rules! with {
        ($atomic:ty, $bits:ty) => {{
            // SAFETY: guaranteed by the caller.
            let value = unsafe { <$atomic>::from_ptr(pointer.cast()) };
            let changed =
                value.fetch_update(
                    ORDER,
                    ORDER,
                    |value| Some(change(u64::from(value)) as $bits),
                );
            Ok(changed.map_or_else(u64::from, u64::from))
        }};
    }
    match kind.size() {
        2 => with!(AtomicU16, u16),
        4 => with!(AtomicU32, u32),
        8 => with!(AtomicU64, u64),
        size => Err(format!("atomic with {size} bytes")),
    }
}
