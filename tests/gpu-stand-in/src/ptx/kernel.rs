//! A kernel, as it is run: what its threads do, and what memory they have.

use super::arithmetic::{Function, Order, Relation};
use super::number::{Conversion, Type};

/// A kernel that can be run.
#[derive(Debug)]
pub struct Kernel {
    /// As the module has it.
    pub name: String,
    /// What threads do, in order.
    pub code: Vec<Instruction>,
    /// Sizes of the parameters, and where each begins.
    pub parameters: Vec<(usize, usize)>,
    /// A thread's registers as it begins: all ones, but for constants.
    pub registers: Vec<u64>,
    /// Bytes of a block's memory, before what the launch adds.
    pub shared: usize,
    /// Bytes of a thread's own memory.
    pub local: usize,
}

/// A register of a thread, by number. Constants have registers, too, and so has what tells threads from each other.
pub type Register = usize;

/// What tells threads from each other, in the first registers.
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

/// Which memory an address is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// The GPU's.
    Global,
    /// A block's; addresses count from its beginning.
    Shared,
    /// A thread's own; addresses count from its beginning.
    Local,
    /// The launch's parameters, likewise.
    Parameter,
}

/// `[base + offset]` in a memory.
#[derive(Debug, Clone, Copy)]
pub struct Address {
    /// Which memory.
    pub space: Space,
    /// A register, which may hold a variable's beginning.
    pub base: Register,
    /// In bytes.
    pub offset: i64,
}

/// An instruction, and the predicate that must have this value for it to be done.
#[derive(Debug)]
pub struct Instruction {
    /// Register of the predicate, and its value.
    pub guard: Option<(usize, bool)>,
    /// What is done.
    pub action: Action,
}

/// What is done.
#[derive(Debug)]
pub enum Action {
    /// A function of up to three values.
    Compute(Function, Register, [Register; 3]),
    /// A number in another type.
    Convert(Conversion, Register, Register),
    /// A relation of two values.
    Compare(Order, Relation, Register, [Register; 2]),
    /// The first if the predicate holds, else the second.
    Select(Register, [Register; 3]),
    /// Bits of the first put into the second, at a place, so many.
    Insert(Register, [Register; 4]),
    /// Values that lie one behind the other.
    Load(Type, Vec<Register>, Address),
    /// Likewise.
    Store(Type, Vec<Register>, Address),
    /// What lay there, and the sum put there by the function, at once.
    Atomic(Type, Function, Option<Register>, Address, Register),
    /// One value of halves, the first the lowest; bits of a half.
    Pack(Register, Vec<Register>, usize),
    /// Halves of one value.
    Unpack(Vec<Register>, Register, usize),
    /// The value of another thread of the warp, whose number differs by these bits.
    Exchange(Register, Register, Register),
    /// Go on there.
    Branch(usize),
    /// Wait for the block.
    Barrier,
    /// This thread has done its part.
    Return,
    /// Not known here; an error if it comes to it.
    Unknown(String),
}
