//! A block of threads, run to its end on one core of the CPU.

use std::ops::Range;

use super::kernel::{Action, Kernel, Register};
use super::thread::{Memory, State, Thread};
use crate::memory::Allocations;

/// A kernel with what it was launched with.
pub struct Launch<'a> {
    /// What is run.
    pub kernel: &'a Kernel,
    /// Blocks along x, y, z.
    pub blocks: [u32; 3],
    /// Threads of a block, likewise.
    pub threads: [u32; 3],
    /// Bytes of a block's memory.
    pub shared: usize,
    /// The parameters, as they lie in memory.
    pub parameters: &'a [u8],
    /// What may be read and written.
    pub memory: &'a Allocations,
}

/// The threads of a block, and their memory.
struct Block<'a> {
    kernel: &'a Kernel,
    threads: Vec<Thread>,
    /// All threads' registers, one thread's behind the other's.
    registers: Vec<u64>,
    memory: Memory<'a>,
}

/// Threads that run in step.
const WARP: usize = 32;

/// Runs one block.
///
/// # Errors
/// What a thread did that it must not do.
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

/// A thread, and what it did.
type Finding = (usize, String);

impl Block<'_> {
    fn run(&mut self) -> Result<(), Finding> {
        loop {
            for (index, thread) in self.threads.iter_mut().enumerate() {
                let count = self.kernel.registers.len();
                let registers = &mut self.registers[index * count..(index + 1) * count];
                self.memory.thread = index;
                thread
                    .go_on(self.kernel, registers, &mut self.memory)
                    .map_err(|finding| (index, finding))?;
            }
            if self
                .threads
                .iter()
                .all(|thread| thread.state == State::Done)
            {
                return Ok(());
            }
            self.let_go_on()?;
        }
    }

    /// Lets warps exchange values, or all threads pass a barrier.
    fn let_go_on(&mut self) -> Result<(), Finding> {
        let mut any = false;
        for start in (0..self.threads.len()).step_by(WARP) {
            let warp = start..(start + WARP).min(self.threads.len());
            if self.threads[warp.clone()]
                .iter()
                .all(|thread| thread.state == State::AtExchange)
            {
                self.exchange(warp)?;
                any = true;
            }
        }
        if any {
            return Ok(());
        }
        if let Some(thread) = self
            .threads
            .iter()
            .position(|thread| thread.state == State::AtExchange)
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

    /// All threads of a warp are at an exchange: each gets what another has, or keeps its own where there is no other.
    fn exchange(&mut self, warp: Range<usize>) -> Result<(), Finding> {
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
        let Action::Exchange(to, value, bits) = self.kernel.code[at].action else {
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
