//! Runs a block of threads on one CPU core.

use std::ops::Range;

use super::kernel::{Action, Kernel, Register};
use super::thread::{Memory, State, Thread};
use crate::memory::Allocations;

/// A kernel with its launch parameters.
pub struct Launch<'a> {
    pub kernel: &'a Kernel,
    /// The number of blocks along x, y, z.
    pub blocks: [u32; 3],
    /// The number of threads per block along x, y, z.
    pub threads: [u32; 3],
    /// Bytes of shared memory per block.
    pub shared: usize,
    /// The kernel parameters, as laid out in memory.
    pub parameters: &'a [u8],
    /// The memory of the GPU.
    pub memory: &'a Allocations,
}

/// A running block: its threads and their memory.
struct Block<'a> {
    kernel: &'a Kernel,
    threads: Vec<Thread>,
    /// The registers of all threads, one thread after another.
    registers: Vec<u64>,
    memory: Memory<'a>,
}

/// The number of threads in a warp.
const WARP: usize = 32;

/// Runs one block.
///
/// # Errors
/// If a thread performs an invalid operation.
pub fn run(launch: &Launch, number: [u32; 3]) -> Result<(), String> {
    let threads = launch.threads.iter().product::<u32>() as usize;
    let mut block = Block {
        kernel: launch.kernel,
        threads: vec![Thread::default(); threads],
        registers: launch.kernel.registers.repeat(threads),
        memory: Memory::new(launch, threads),
    };
    for (thread, registers) in (0..).zip(block.registers.chunks_mut(launch.kernel.registers.len()))
    {
        let [x, y, _] = launch.threads;
        let its = [thread % x, thread / x % y, thread / x / y];
        let special = [its, launch.threads, number, launch.blocks]
            .into_iter()
            .flatten();
        for (register, value) in registers
            .iter_mut()
            .zip(special.chain([thread % WARP as u32]))
        {
            *register = u64::from(value);
        }
    }
    let finding = |(thread, finding): (usize, String)| {
        format!(
            "kernel {}, block {number:?}, thread {thread}: {finding}",
            launch.kernel.name
        )
    };
    block.run().map_err(finding)
}

/// An invalid operation: the index of the thread, and the message.
type Finding = (usize, String);

impl Block<'_> {
    fn run(&mut self) -> Result<(), Finding> {
        loop {
            for (index, thread) in self.threads.iter_mut().enumerate() {
                let count = self.kernel.registers.len();
                let registers = &mut self.registers[index * count..(index + 1) * count];
                self.memory.thread = index;
                thread
                    .resume(self.kernel, registers, &mut self.memory)
                    .map_err(|finding| (index, finding))?;
            }
            if self
                .threads
                .iter()
                .all(|thread| thread.state == State::Done)
            {
                return Ok(());
            }
            self.resume_threads()?;
        }
    }

    /// Completes the shuffles of warps or, if there are none, the barrier of the block.
    fn resume_threads(&mut self) -> Result<(), Finding> {
        let mut any = false;
        for start in (0..self.threads.len()).step_by(WARP) {
            let warp = start..(start + WARP).min(self.threads.len());
            if self.threads[warp.clone()]
                .iter()
                .all(|thread| thread.state == State::AtShuffle)
            {
                self.shuffle(warp)?;
                any = true;
            }
        }
        if any {
            return Ok(());
        }
        if let Some(thread) = self
            .threads
            .iter()
            .position(|thread| thread.state == State::AtShuffle)
        {
            return Err((
                thread,
                "waits for values of threads that do not come".to_string(),
            ));
        }
        for thread in self
            .threads
            .iter_mut()
            .filter(|thread| thread.state == State::AtBarrier)
        {
            thread.state = State::Running;
        }
        Ok(())
    }

    /// Exchanges values within a warp: each thread gets the value of its partner, or keeps its own
    /// if there is none.
    fn shuffle(&mut self, warp: Range<usize>) -> Result<(), Finding> {
        let at = self.threads[warp.start].next;
        if self.threads[warp.clone()]
            .iter()
            .any(|thread| thread.next != at)
        {
            return Err((
                warp.start,
                "threads of a warp are at different exchanges".to_string(),
            ));
        }
        let Action::Shuffle(to, value, bits) = self.kernel.code[at].action else {
            unreachable!("threads wait at exchanges alone");
        };
        let values: Vec<u64> = warp
            .clone()
            .map(|thread| *self.register(thread, value))
            .collect();
        for (lane, thread) in warp.enumerate() {
            let other = lane ^ *self.register(thread, bits) as usize;
            *self.register(thread, to) = *values.get(other).unwrap_or(&values[lane]);
            self.threads[thread].state = State::Running;
            self.threads[thread].next += 1;
        }
        Ok(())
    }

    fn register(&mut self, thread: usize, register: Register) -> &mut u64 {
        &mut self.registers[thread * self.kernel.registers.len() + register]
    }
}
