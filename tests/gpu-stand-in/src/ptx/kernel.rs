//! A decoded kernel: its instructions and its memory.

use super::arithmetic::{Function, Order, Relation};
use super::number::{Conversion, Type};

/// A decoded kernel.
#[derive(Debug)]
pub struct Kernel {
    /// The name in the module.
    pub name: String,
    /// The instructions, in order.
    pub code: Vec<Instruction>,
    /// The size and the offset of each parameter.
    pub parameters: Vec<(usize, usize)>,
    /// Initial registers of a thread: all ones, except constants.
    pub registers: Vec<u64>,
    /// Bytes of shared memory per block, without those added by the launch.
    pub shared: usize,
    /// Bytes of local memory per thread.
    pub local: usize,
}

/// The index of a register of a thread. Constants and special registers have one, too.
pub type Register = usize;

/// The special registers, which identify a thread. They come first.
pub const SPECIAL: [&str; 13] = [
    "%tid.x",
    "%tid.y",
    "%tid.z",
    "%ntid.x",
    "%ntid.y",
    "%ntid.z",
    "%ctaid.x",
    "%ctaid.y",
    "%ctaid.z",
    "%nctaid.x",
    "%nctaid.y",
    "%nctaid.z",
    "%laneid",
];

/// The state space of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// Memory of the GPU.
    Global,
    /// Shared memory of a block, with addresses from 0.
    Shared,
    /// Local memory of a thread, with addresses from 0.
    Local,
    /// Parameters of the launch, with addresses from 0.
    Parameter,
}

/// The address `[base + offset]` in a state space.
#[derive(Debug, Clone, Copy)]
pub struct Address {
    pub space: Space,
    /// A register, which may hold the offset of a variable.
    pub base: Register,
    /// The offset in bytes.
    pub offset: i64,
}

/// An instruction, with the predicate that guards it.
#[derive(Debug)]
pub struct Instruction {
    /// The register of the predicate, and the value at which the instruction is executed.
    pub guard: Option<(usize, bool)>,
    pub action: Action,
}

/// The operation of an instruction.
#[derive(Debug)]
pub enum Action {
    /// A function of up to three values.
    Compute(Function, Register, [Register; 3]),
    /// A conversion to another type.
    Convert(Conversion, Register, Register),
    /// A comparison of two values.
    Compare(Order, Relation, Register, [Register; 2]),
    /// The first value if the predicate holds, else the second.
    Select(Register, [Register; 3]),
    /// Inserts bits of the first value into the second, at a position, with a length.
    Insert(Register, [Register; 4]),
    /// Loads consecutive values.
    Load(Type, Vec<Register>, Address),
    /// Stores consecutive values.
    Store(Type, Vec<Register>, Address),
    /// Atomically replaces a value by the result of the function, and returns the old value.
    Atomic(Type, Function, Option<Register>, Address, Register),
    /// Packs values of this many bits into one, the first lowest.
    Pack(Register, Vec<Register>, usize),
    /// Unpacks a value into values of this many bits.
    Unpack(Vec<Register>, Register, usize),
    /// A warp shuffle: gets the value of the thread whose lane number differs by these bits.
    Shuffle(Register, Register, Register),
    /// Jumps to an instruction.
    Branch(usize),
    /// Waits for all threads of the block.
    Barrier,
    /// Ends the thread.
    Return,
    /// An unsupported statement, which is an error when executed.
    Unknown(String),
}
