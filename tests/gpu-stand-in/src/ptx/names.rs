//! Names in a kernel: registers, variables and numbers, all of which are decoded to registers.

use std::collections::HashMap;

use super::kernel::{Address, Register, SPECIAL, Space};
use super::module::{Variable, offsets};

/// The meaning of the names in a kernel.
pub struct Names {
    /// Names of registers, without the number if there are several of a kind.
    declared: Vec<String>,
    registers: HashMap<String, Register>,
    constants: HashMap<u64, Register>,
    variables: HashMap<String, usize>,
    /// Initial values of the registers.
    pub initial: Vec<u64>,
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
    /// Declares registers: `.reg .f32 %f<12>` or `.reg .b16 a, b`.
    pub fn declare(&mut self, statement: &str) {
        let names = statement.trim_start_matches(".reg").trim_start();
        let names = names.split_once([' ', '\t']).map_or("", |(_, names)| names);
        let names = names
            .split(',')
            .map(|name| name.split('<').next().unwrap_or("").trim());
        self.declared.extend(names.map(str::to_string));
    }

    /// Allocates variables one after another, and returns the end of the last.
    pub fn allocate(&mut self, variables: &[Variable]) -> usize {
        let (starts, end) = offsets(variables);
        let names = variables.iter().map(|variable| variable.name.clone());
        self.variables.extend(names.zip(starts));
        end
    }

    pub fn register(&mut self, name: &str) -> Option<Register> {
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

    /// Returns the register of an operand: a register, a variable's address, or a number.
    pub fn operand(&mut self, text: &str) -> Option<Register> {
        let address = self.variables.get(text).map(|start| *start as u64);
        match address.or_else(|| literal(text)) {
            Some(value) => Some(self.constant(value)),
            None => self.register(text),
        }
    }

    pub fn operands<const N: usize>(&mut self, texts: &[&str]) -> Option<[Register; N]> {
        let mut operands = [0; N];
        if texts.len() > N {
            return None;
        }
        for (operand, text) in operands.iter_mut().zip(texts) {
            *operand = self.operand(text)?;
        }
        Some(operands)
    }

    /// Parses `[name+8]`, `[%rd1+-4]` or `[%rd1]`, in the state space among `words`.
    pub fn address(&mut self, text: &str, words: &[&str]) -> Option<Address> {
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

/// Parses a number literal to its bits.
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
