//! Statements of a kernel, decoded to what a thread does.

use std::collections::HashMap;

use super::arithmetic::{self, Function, Order, Relation};
use super::module::{Source, Variable, places, variable};
use super::number::{Conversion, Type, size_of};

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

/// Decodes a kernel. What is not known becomes [`Action::Unknown`], since modules are full of what is never run.
pub fn decode(source: &Source) -> Kernel {
    let mut names = Names::default();
    let mut shared = Vec::new();
    let mut local = Vec::new();
    let mut statements = Vec::new();
    let mut labels = HashMap::new();
    for statement in source.body.split(';') {
        let mut statement = statement.trim();
        loop {
            let shorter = statement
                .trim_start_matches(|letter: char| "{}".contains(letter) || letter.is_whitespace());
            let Some((label, rest)) = label(shorter) else {
                statement = shorter;
                break;
            };
            labels.insert(label.to_string(), statements.len());
            statement = rest;
        }
        match statement.split_whitespace().next() {
            None | Some(".pragma") => {}
            Some(".reg") => names.declare(statement),
            Some(".shared") => shared.extend(variable(statement)),
            Some(".local") => local.extend(variable(statement)),
            Some(_) => statements.push(statement),
        }
    }
    // What the launch adds lies behind everything else.
    shared.extend(source.shared.iter().cloned());
    let shared_size = names.place(&shared);
    let local_size = names.place(&local);
    names.place(&source.parameters);
    let code = statements.iter().map(|statement| {
        let unknown = || Instruction {
            guard: None,
            action: Action::Unknown((*statement).to_string()),
        };
        instruction(statement, &mut names, &labels).unwrap_or_else(unknown)
    });
    let code = code.collect();
    let sizes = source.parameters.iter().map(|parameter| parameter.size);
    Kernel {
        name: source.name.clone(),
        code,
        parameters: sizes.zip(places(&source.parameters).0).collect(),
        registers: names.initial,
        shared: shared_size,
        local: local_size,
    }
}

/// `name: rest`.
fn label(text: &str) -> Option<(&str, &str)> {
    let (label, rest) = text.split_once(':')?;
    let is_name = |letter: char| letter.is_alphanumeric() || "_$".contains(letter);
    label.chars().all(is_name).then_some((label, rest))
}

/// What names of a kernel stand for.
struct Names {
    /// Names of registers, without the number where there are several of a kind.
    declared: Vec<String>,
    registers: HashMap<String, Register>,
    constants: HashMap<u64, Register>,
    variables: HashMap<String, usize>,
    /// What registers hold as a thread begins.
    initial: Vec<u64>,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            declared: Vec::new(),
            registers: (0..)
                .zip(SPECIAL)
                .map(|(register, name)| (name.to_string(), register))
                .collect(),
            constants: HashMap::new(),
            variables: HashMap::new(),
            initial: vec![!0; SPECIAL.len()],
        }
    }
}

impl Names {
    /// `.reg .f32 %f<12>` or `.reg .b16 a, b`.
    fn declare(&mut self, statement: &str) {
        let names = statement.trim_start_matches(".reg").trim_start();
        let names = names.split_once([' ', '\t']).map_or("", |(_, names)| names);
        let names = names
            .split(',')
            .map(|name| name.split('<').next().unwrap_or("").trim());
        self.declared.extend(names.map(str::to_string));
    }

    /// Puts variables one behind the other, and says where the last ends.
    fn place(&mut self, variables: &[Variable]) -> usize {
        let (starts, end) = places(variables);
        let names = variables.iter().map(|variable| variable.name.clone());
        self.variables.extend(names.zip(starts));
        end
    }

    fn register(&mut self, name: &str) -> Option<Register> {
        if let Some(register) = self.registers.get(name) {
            return Some(*register);
        }
        let without_number = name.trim_end_matches(|letter: char| letter.is_ascii_digit());
        let is_known = self
            .declared
            .iter()
            .any(|declared| declared == name || declared == without_number);
        is_known.then(|| {
            self.initial.push(!0);
            self.registers
                .insert(name.to_string(), self.initial.len() - 1);
            self.initial.len() - 1
        })
    }

    fn constant(&mut self, value: u64) -> Register {
        *self.constants.entry(value).or_insert_with(|| {
            self.initial.push(value);
            self.initial.len() - 1
        })
    }

    /// The register that holds a value: a register's, a variable's address, or a number.
    fn operand(&mut self, text: &str) -> Option<Register> {
        let address = self.variables.get(text).map(|start| *start as u64);
        match address.or_else(|| literal(text)) {
            Some(value) => Some(self.constant(value)),
            None => self.register(text),
        }
    }

    fn operands<const N: usize>(&mut self, texts: &[&str]) -> Option<[Register; N]> {
        let mut operands = [0; N];
        if texts.len() > N {
            return None;
        }
        for (operand, text) in operands.iter_mut().zip(texts) {
            *operand = self.operand(text)?;
        }
        Some(operands)
    }

    /// `[name+8]`, `[%rd1+-4]` or `[%rd1]`, of the memory that the instruction's words name.
    fn address(&mut self, text: &str, words: &[&str]) -> Option<Address> {
        let inner = text.strip_prefix('[')?.strip_suffix(']')?;
        let (name, offset) = inner.split_once('+').unwrap_or((inner, "0"));
        let spaces = [
            ("shared", Space::Shared),
            ("local", Space::Local),
            ("param", Space::Parameter),
        ];
        let named = spaces.into_iter().find(|(name, _)| words.contains(name));
        Some(Address {
            space: named.map_or(Space::Global, |(_, space)| space),
            base: self.operand(name.trim())?,
            offset: offset.trim().parse().ok()?,
        })
    }
}

/// The bits of a number as it is written.
fn literal(text: &str) -> Option<u64> {
    let hexadecimal = |digits| u64::from_str_radix(digits, 16).ok();
    for prefix in ["0f", "0F", "0d", "0D", "0x", "0X"] {
        if let Some(digits) = text.strip_prefix(prefix) {
            return hexadecimal(digits);
        }
    }
    if text == "WARP_SZ" {
        return Some(32);
    }
    let text = text.strip_suffix('U').unwrap_or(text);
    text.parse::<u64>()
        .ok()
        .or_else(|| text.parse::<i64>().ok().map(|x| x as u64))
}

/// At commas that are not within brackets.
fn split_operands(text: &str) -> Vec<&str> {
    let mut depth = 0;
    let at_comma = |letter: char| {
        match letter {
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            _ => {}
        }
        letter == ',' && depth == 0
    };
    let operands = text.split(at_comma).map(str::trim);
    operands.filter(|operand| !operand.is_empty()).collect()
}

/// The names within `{a, b}`, or the one there is.
fn elements(text: &str) -> Vec<&str> {
    let inner = text
        .strip_prefix('{')
        .and_then(|text| text.strip_suffix('}'));
    inner.unwrap_or(text).split(',').map(str::trim).collect()
}

fn instruction(
    statement: &str,
    names: &mut Names,
    labels: &HashMap<String, usize>,
) -> Option<Instruction> {
    let (guard, statement) = match statement.strip_prefix('@') {
        None => (None, statement),
        Some(guarded) => {
            let (predicate, rest) = guarded.split_once(char::is_whitespace)?;
            let name = predicate.trim_start_matches('!');
            (
                Some((names.register(name)?, name == predicate)),
                rest.trim_start(),
            )
        }
    };
    let (opcode, operands) = statement
        .split_once(char::is_whitespace)
        .unwrap_or((statement, ""));
    let operands = split_operands(operands);
    let action = action(opcode, &operands, names, labels)?;
    Some(Instruction { guard, action })
}

fn action(
    opcode: &str,
    operands: &[&str],
    names: &mut Names,
    labels: &HashMap<String, usize>,
) -> Option<Action> {
    let words: Vec<&str> = opcode.split('.').collect();
    let kind = words.last()?;
    let registers = |texts: Vec<&str>, names: &mut Names| -> Option<Vec<Register>> {
        texts.into_iter().map(|text| names.register(text)).collect()
    };
    let values = |texts: Vec<&str>, names: &mut Names| -> Option<Vec<Register>> {
        texts.into_iter().map(|text| names.operand(text)).collect()
    };
    Some(match (words[0], operands) {
        ("bra", [label]) => Action::Branch(*labels.get(*label)?),
        ("ret" | "exit", []) => Action::Return,
        ("bar", _) => Action::Barrier,
        ("ld", [to, from]) => {
            let to = registers(elements(to), names)?;
            Action::Load(Type::parse(kind)?, to, names.address(from, &words)?)
        }
        ("st", [to, from]) => {
            let from = values(elements(from), names)?;
            Action::Store(Type::parse(kind)?, from, names.address(to, &words)?)
        }
        ("atom", [to, address, value]) => {
            let function = arithmetic::function(&format!(
                "{}.{kind}",
                words
                    .iter()
                    .find(|word| ["add", "min", "max"].contains(word))?
            ))?;
            let to = Some(names.register(to)?);
            Action::Atomic(
                Type::parse(kind)?,
                function,
                to,
                names.address(address, &words)?,
                names.operand(value)?,
            )
        }
        ("red", [address, value]) => {
            let function = arithmetic::function(&format!(
                "{}.{kind}",
                words
                    .iter()
                    .find(|word| ["add", "min", "max"].contains(word))?
            ))?;
            Action::Atomic(
                Type::parse(kind)?,
                function,
                None,
                names.address(address, &words)?,
                names.operand(value)?,
            )
        }
        ("mov", [to, from]) if from.starts_with('{') => {
            let from = values(elements(from), names)?;
            let bits = 8 * size_of(kind)? / from.len();
            Action::Pack(names.register(to)?, from, bits)
        }
        ("mov", [to, from]) if to.starts_with('{') => {
            let to = registers(elements(to), names)?;
            let bits = 8 * size_of(kind)? / to.len();
            Action::Unpack(to, names.operand(from)?, bits)
        }
        ("cvta", [to, from]) => {
            let same: Function = |x, _, _| x;
            Action::Compute(same, names.register(to)?, names.operands(&[from])?)
        }
        ("setp", [to, from @ ..]) => {
            let (order, relation) = arithmetic::comparison(&words[1..])?;
            let to = names.register(to)?;
            Action::Compare(order, relation, to, names.operands(from)?)
        }
        ("selp", [to, from @ ..]) => Action::Select(names.register(to)?, names.operands(from)?),
        ("bfi", [to, from @ ..]) => Action::Insert(names.register(to)?, names.operands(from)?),
        // Of whole warps: the last two say so, often by registers.
        ("shfl", [to, value, bits, _, _]) if words[1..] == ["sync", "bfly", "b32"] => {
            let to = to.split('|').next()?;
            Action::Exchange(
                names.register(to)?,
                names.operand(value)?,
                names.operand(bits)?,
            )
        }
        (_, [to, from @ ..]) => {
            let to = names.register(to)?;
            match arithmetic::function(opcode) {
                Some(function) => Action::Compute(function, to, names.operands(from)?),
                None if words[0] == "cvt" => Action::Convert(
                    Conversion::parse(&words[1..])?,
                    to,
                    names.operand(from.first()?)?,
                ),
                None => return None,
            }
        }
        _ => return None,
    })
}
