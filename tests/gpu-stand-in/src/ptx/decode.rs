//! Decodes the statements of a kernel to instructions.

use std::collections::HashMap;

use super::arithmetic::{self, Function};
use super::kernel::{Action, Instruction, Kernel, Register};
use super::module::{Source, offsets, variable};
use super::names::Names;
use super::number::{Conversion, Type, size_of};

/// Decodes a kernel. Unsupported statements become [`Action::Unknown`], since modules contain much
/// code that is never run.
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
    // Memory whose size is only known at launch is declared at module level, and must come last.
    shared.extend(source.shared.iter().cloned());
    let shared_size = names.allocate(&shared);
    let local_size = names.allocate(&local);
    names.allocate(&source.parameters);
    let code = statements
        .iter()
        .map(|statement| instruction(statement, &mut names, &labels));
    let code = code.collect();
    let sizes = source.parameters.iter().map(|parameter| parameter.size);
    Kernel {
        name: source.name.clone(),
        code,
        parameters: sizes.zip(offsets(&source.parameters).0).collect(),
        registers: names.initial,
        shared: shared_size,
        local: local_size,
    }
}

/// Parses `name: rest`.
fn label(text: &str) -> Option<(&str, &str)> {
    let (label, rest) = text.split_once(':')?;
    let is_name = |letter: char| letter.is_alphanumeric() || "_$".contains(letter);
    label.chars().all(is_name).then_some((label, rest))
}

/// Splits operands at commas outside brackets.
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

/// Returns the names in `{a, b}`, or the single name.
fn elements(text: &str) -> Vec<&str> {
    let inner = text
        .strip_prefix('{')
        .and_then(|text| text.strip_suffix('}'));
    inner.unwrap_or(text).split(',').map(str::trim).collect()
}

fn instruction(statement: &str, names: &mut Names, labels: &HashMap<String, usize>) -> Instruction {
    let unknown = || Action::Unknown(statement.to_string());
    let (guard, guarded) = match statement
        .strip_prefix('@')
        .and_then(|rest| rest.split_once(char::is_whitespace))
    {
        None => (None, statement),
        Some((predicate, rest)) => {
            let name = predicate.trim_start_matches('!');
            let register = names.register(name);
            (
                register.map(|register| (register, name == predicate)),
                rest.trim_start(),
            )
        }
    };
    let (opcode, operands) = guarded
        .split_once(char::is_whitespace)
        .unwrap_or((guarded, ""));
    Instruction {
        guard,
        action: action(opcode, &split_operands(operands), names, labels).unwrap_or_else(unknown),
    }
}

/// Decodes an instruction; `None` if it is not supported.
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
        ("atom" | "red", [to @ .., address, value]) => {
            let function = arithmetic::function(&format!(
                "{}.{kind}",
                words
                    .iter()
                    .find(|word| ["add", "min", "max"].contains(word))?
            ))?;
            let to = match to {
                [] => None,
                [to, ..] => Some(names.register(to)?),
            };
            Action::Atomic(
                Type::parse(kind)?,
                function,
                to,
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
        // The last two operands, often registers, always select complete warps, and are ignored.
        ("shfl", [to, value, bits, _, _]) if words[1..] == ["sync", "bfly", "b32"] => {
            let to = to.split('|').next()?;
            Action::Shuffle(
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
