//! A pickle interpreter for the state dicts of PyTorch: it builds descriptions of tensors and calls
//! nothing.
//!
//! Only the opcodes of pickle protocol 2 that such files use are known. Values are counted
//! references, nested to a limited depth, and what is copied has a limited length, so a hostile
//! file takes memory in proportion to its length.

use std::collections::HashMap;
use std::rc::Rc;

use candle_core::DType;

use super::StoredTensor;

/// The maximum depth of tuples in tuples; a state dict has three.
const MOST_DEPTH: usize = 16;

/// The maximum number of dimensions of a tensor. Each tensor has a copy of its shape, and a few
/// bytes of a pickle make a tensor.
const MOST_DIMENSIONS: usize = 8;

/// The maximum length of a storage's name in bytes; `torch.save` numbers them.
const MOST_NAME_BYTES: usize = 64;

/// The name of a tensor and its place.
type Entry = (Rc<str>, Rc<StoredTensor>);

/// Reads a state dict: the names of its tensors and their places.
pub(super) fn state_dict(pickle: &[u8]) -> Result<Vec<Entry>, String> {
    let mut machine = Machine {
        input: pickle,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        entries: Vec::new(),
    };
    while machine.step()? {}
    if !matches!(machine.stack[..], [Value::Dict]) {
        let found = machine
            .stack
            .last()
            .map_or("nothing".to_string(), Value::describe);
        return Err(format!("expected a dictionary of tensors, found {found}"));
    }
    let entries = machine.entries.into_iter();
    entries
        .map(|(key, value)| match (key, value) {
            (Value::Text(name), Value::Tensor(tensor)) => Ok((name, tensor)),
            (Value::Text(name), other) => Err(format!(
                "{name}: expected a tensor, found {}",
                other.describe()
            )),
            (key, _) => Err(format!(
                "expected names of tensors, found {}",
                key.describe()
            )),
        })
        .collect()
}

#[derive(Clone, Debug)]
enum Value {
    Int(i64),
    Text(Rc<str>),
    /// A function or class, as `module.name`.
    Global(Rc<str>),
    Tuple {
        items: Rc<[Value]>,
        depth: usize,
    },
    /// A dictionary. Entries are kept only of the outermost: see [`Machine::set`].
    Dict,
    Storage(Rc<Storage>),
    Tensor(Rc<StoredTensor>),
    /// An object of a class that is no tensor, by the name of the class.
    Object(Rc<str>),
    /// Anything else, by its description.
    Other(&'static str),
}

/// A reference to a storage.
#[derive(Debug)]
struct Storage {
    name: Rc<str>,
    dtype: DType,
}

impl Value {
    fn describe(&self) -> String {
        match self {
            Self::Int(_) => "a number".to_string(),
            Self::Text(_) => "a text".to_string(),
            Self::Global(name) => format!("the class {name}"),
            Self::Tuple { .. } => "a tuple".to_string(),
            Self::Dict => "a dictionary".to_string(),
            Self::Storage(_) => "a storage".to_string(),
            Self::Tensor(_) => "a tensor".to_string(),
            Self::Object(class) => format!("an object of {class}"),
            Self::Other(description) => (*description).to_string(),
        }
    }

    fn tuple(items: Vec<Self>) -> Result<Self, String> {
        let depths = items.iter().map(|item| match item {
            Self::Tuple { depth, .. } => *depth,
            _ => 0,
        });
        let depth = 1 + depths.max().unwrap_or(0);
        if depth > MOST_DEPTH {
            return Err(format!("found tuples nested deeper than {MOST_DEPTH}"));
        }
        let items = items.into();
        Ok(Self::Tuple { items, depth })
    }

    /// Returns the items of a tuple.
    fn items(&self) -> Result<&[Self], String> {
        match self {
            Self::Tuple { items, .. } => Ok(items),
            other => Err(format!("expected a tuple, found {}", other.describe())),
        }
    }

    fn size(&self) -> Result<usize, String> {
        match self {
            Self::Int(value) => {
                usize::try_from(*value).map_err(|_| format!("expected a size, found {value}"))
            }
            other => Err(format!("expected a size, found {}", other.describe())),
        }
    }

    fn sizes(&self) -> Result<Vec<usize>, String> {
        let items = self.items()?;
        if items.len() > MOST_DIMENSIONS {
            return Err(format!(
                "expected a tensor of at most {MOST_DIMENSIONS} dimensions, found {} dimensions",
                items.len()
            ));
        }
        items.iter().map(Self::size).collect()
    }
}

struct Machine<'a> {
    input: &'a [u8],
    stack: Vec<Value>,
    /// Heights of the stack at its marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    /// Entries of the outermost dictionary.
    entries: Vec<(Value, Value)>,
}

impl<'a> Machine<'a> {
    /// Executes an opcode; returns whether there are more.
    fn step(&mut self) -> Result<bool, String> {
        let [code] = self.bytes()?;
        match code {
            0x80 => match self.bytes()? {
                [2] => {}
                [protocol] => return Err(format!("expected pickle protocol 2, found {protocol}")),
            },
            b'.' => return Ok(false),
            b'(' => self.marks.push(self.stack.len()),
            b'N' => self.stack.push(Value::Other("None")),
            0x88 | 0x89 => self.stack.push(Value::Other("a truth value")),
            b'K' => {
                let [value] = self.bytes()?;
                self.stack.push(Value::Int(value.into()));
            }
            b'M' => {
                let value = u16::from_le_bytes(self.bytes()?);
                self.stack.push(Value::Int(value.into()));
            }
            b'J' => {
                let value = i32::from_le_bytes(self.bytes()?);
                self.stack.push(Value::Int(value.into()));
            }
            0x8a => self.long()?,
            b'G' => {
                let _number: [u8; 8] = self.bytes()?;
                self.stack.push(Value::Other("a number"));
            }
            b'X' => {
                let length = u32::from_le_bytes(self.bytes()?);
                let text = utf8(self.slice(length as usize)?)?;
                self.stack.push(Value::Text(text.into()));
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.stack
                    .push(Value::Global(format!("{module}.{name}").into()));
            }
            b']' => self.stack.push(Value::Other("a list")),
            b'}' => self.stack.push(Value::Dict),
            b')' => self.stack.push(Value::tuple(Vec::new())?),
            0x85..=0x87 => {
                let items = self.pop_many(usize::from(code - 0x84))?;
                self.stack.push(Value::tuple(items)?);
            }
            b't' => {
                let items = self.pop_to_mark()?;
                self.stack.push(Value::tuple(items)?);
            }
            b'q' | b'h' => {
                let [key] = self.bytes()?;
                self.memo(code == b'q', key.into())?;
            }
            b'r' | b'j' => {
                let key = u32::from_le_bytes(self.bytes()?);
                self.memo(code == b'r', key)?;
            }
            b'a' | b'b' => drop(self.pop()?), // appended to a list, or the state of an object
            b'e' => drop(self.pop_to_mark()?),
            b's' => {
                let entry = self.pop_many(2)?;
                self.set(entry)?;
            }
            b'u' => {
                let entries = self.pop_to_mark()?;
                self.set(entries)?;
            }
            b'Q' => {
                let storage = storage(&self.pop()?)?;
                self.stack.push(Value::Storage(Rc::new(storage)));
            }
            b'R' | 0x81 => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.stack.push(call(&function, &arguments)?);
            }
            other => return Err(format!("found the pickle opcode {other:#04x}")),
        }
        Ok(true)
    }

    /// Takes bytes from the input.
    fn slice(&mut self, count: usize) -> Result<&'a [u8], String> {
        let Some((taken, rest)) = self.input.split_at_checked(count) else {
            return Err("the pickle ends too early".to_string());
        };
        self.input = rest;
        Ok(taken)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.slice(N)?);
        Ok(bytes)
    }

    /// Takes a line of text from the input, without its end.
    fn line(&mut self) -> Result<String, String> {
        let end = self.input.iter().position(|byte| *byte == b'\n');
        let line = utf8(self.slice(end.unwrap_or(usize::MAX))?)?.to_string();
        self.slice(1)?;
        Ok(line)
    }

    /// Reads an integer of any length that fits 64 bits.
    fn long(&mut self) -> Result<(), String> {
        let [length] = self.bytes()?;
        let digits = self.slice(length.into())?;
        let is_negative = digits.last().is_some_and(|last| last & 0x80 != 0);
        let mut bytes = [if is_negative { 0xff } else { 0 }; 8];
        let Some(target) = bytes.get_mut(..digits.len()) else {
            return Err("found a number of more than 64 bits".to_string());
        };
        target.copy_from_slice(digits);
        self.stack.push(Value::Int(i64::from_le_bytes(bytes)));
        Ok(())
    }

    /// Stores the top of the stack under a key, or pushes what is stored there.
    fn memo(&mut self, stores: bool, key: u32) -> Result<(), String> {
        if stores {
            let value = self.stack.last().ok_or("the pickle's stack is empty")?;
            self.memo.insert(key, value.clone());
        } else {
            let value = self.memo.get(&key).ok_or("the pickle lacks a value")?;
            self.stack.push(value.clone());
        }
        Ok(())
    }

    fn pop(&mut self) -> Result<Value, String> {
        let value = self.stack.pop();
        value.ok_or_else(|| "the pickle's stack is empty".to_string())
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Value>, String> {
        let start = self.stack.len().checked_sub(count);
        let start = start.ok_or("the pickle's stack is too short")?;
        Ok(self.stack.split_off(start))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>, String> {
        match self.marks.pop() {
            Some(start) if start <= self.stack.len() => Ok(self.stack.split_off(start)),
            _ => Err("the pickle's stack lacks a mark".to_string()),
        }
    }

    /// Adds keys and values to the dictionary on top of the stack. Those of inner ones, such as the
    /// versions of modules, are not kept.
    fn set(&mut self, entries: Vec<Value>) -> Result<(), String> {
        match self.stack[..] {
            [Value::Dict] => {
                let mut entries = entries.into_iter();
                while let Some(key) = entries.next() {
                    let value = entries.next().ok_or("a key of the pickle lacks a value")?;
                    self.entries.push((key, value));
                }
                Ok(())
            }
            [.., Value::Dict | Value::Object(_) | Value::Other(_)] => Ok(()),
            _ => Err("found entries of no dictionary".to_string()),
        }
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| "found a text that is not UTF-8".to_string())
}

/// Reads the reference to a storage: the tuple ("storage", class, name, device, length).
fn storage(reference: &Value) -> Result<Storage, String> {
    let [_, Value::Global(class), Value::Text(name), ..] = reference.items()? else {
        return Err("expected a reference to a storage".to_string());
    };
    if name.len() > MOST_NAME_BYTES {
        return Err(format!(
            "expected a storage's name of at most {MOST_NAME_BYTES} bytes, found {} bytes",
            name.len()
        ));
    }
    let dtype = match &**class {
        "torch.FloatStorage" => DType::F32,
        "torch.DoubleStorage" => DType::F64,
        "torch.HalfStorage" => DType::F16,
        "torch.BFloat16Storage" => DType::BF16,
        "torch.LongStorage" => DType::I64,
        "torch.IntStorage" => DType::I32,
        "torch.ShortStorage" => DType::I16,
        "torch.ByteStorage" => DType::U8,
        other => return Err(format!("found a storage of class {other}")),
    };
    Ok(Storage {
        name: name.clone(),
        dtype,
    })
}

/// Evaluates the calls that state dicts have. The result of any other is an object that is no
/// tensor.
fn call(function: &Value, arguments: &Value) -> Result<Value, String> {
    let Value::Global(name) = function else {
        return Err(format!("found a call of {}", function.describe()));
    };
    match (&**name, arguments.items()?) {
        ("collections.OrderedDict", []) => Ok(Value::Dict),
        ("torch._utils._rebuild_parameter", [Value::Tensor(tensor), ..]) => {
            Ok(Value::Tensor(tensor.clone()))
        }
        (
            "torch._utils._rebuild_tensor_v2",
            [Value::Storage(storage), offset, shape, strides, ..],
        ) => {
            let (shape, strides) = (shape.sizes()?, strides.sizes()?);
            if shape.len() != strides.len() {
                return Err("found a tensor with more sizes than strides, or fewer".to_string());
            }
            Ok(Value::Tensor(Rc::new(StoredTensor {
                storage: storage.name.clone(),
                dtype: storage.dtype,
                offset: offset.size()?,
                shape,
                strides,
            })))
        }
        _ => Ok(Value::Object(name.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds the pickle of a dictionary with one entry, pushed by `value`.
    fn pickled(value: &[u8]) -> Vec<u8> {
        [&b"\x80\x02}q\x00(X\x01\x00\x00\x00w"[..], value, b"u."].concat()
    }

    fn tensor() -> Vec<u8> {
        let storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ";
        let rest = b"K\x01M\x02\x00J\x03\x00\x00\x00\x86K\x03K\x01\x86\x89}tR";
        [&b"ctorch._utils\n_rebuild_tensor_v2\n("[..], storage, rest].concat()
    }

    #[test]
    fn tensors_are_described() {
        let entries = state_dict(&pickled(&tensor())).unwrap();
        let expected = StoredTensor {
            storage: "0".into(),
            dtype: DType::F32,
            offset: 1,
            shape: vec![2, 3],
            strides: vec![3, 1],
        };
        assert_eq!(entries, [("w".into(), Rc::new(expected))]);
    }

    #[test]
    fn entries_that_are_no_tensors_are_errors_by_name() {
        for (value, expected) in [
            (&b"K\x03"[..], "w: expected a tensor, found a number"),
            (b"}", "w: expected a tensor, found a dictionary"),
            (b"N", "w: expected a tensor, found None"),
            (
                b"cos\nsystem\nX\x02\x00\x00\x00ls\x85R",
                "w: expected a tensor, found an object of os.system",
            ),
            (
                b"cos\nsystem\n",
                "w: expected a tensor, found the class os.system",
            ),
        ] {
            assert_eq!(state_dict(&pickled(value)).unwrap_err(), expected);
        }
    }

    #[test]
    fn every_truncated_or_changed_pickle_is_an_error_or_a_description() {
        let whole = pickled(&tensor());
        for length in 0..whole.len() {
            assert!(state_dict(&whole[..length]).is_err(), "{length}");
        }
        for position in 0..whole.len() {
            for value in 0..=255 {
                let mut changed = whole.clone();
                changed[position] = value;
                drop(state_dict(&changed)); // must not panic
            }
        }
    }

    #[test]
    fn deep_tuples_and_long_numbers_are_rejected() {
        let deep = [&b"K\x01"[..], &b"\x85".repeat(100_000)].concat();
        assert!(state_dict(&pickled(&deep)).unwrap_err().contains("nested"));
        let long = [&b"\x8a\xff"[..], &[1; 255]].concat();
        assert!(state_dict(&pickled(&long)).unwrap_err().contains("64 bits"));
        let negative = b"ctorch._utils\n_rebuild_tensor_v2\n(\x8a\x02\xff\xfftR";
        assert!(
            state_dict(&pickled(negative))
                .unwrap_err()
                .contains("an object")
        );
    }

    #[test]
    fn tensors_of_more_than_eight_dimensions_and_long_names_of_storages_are_rejected() {
        let of = |name: &[u8], sizes: usize| {
            let length = (name.len() as u32).to_le_bytes();
            let head = b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX";
            let shape = [&b"("[..], &b"K\x01".repeat(sizes), b"t"].concat();
            let parts = [head, &length[..], name, b"tQK\x00", &shape, &shape, b"tR"].concat();
            state_dict(&pickled(&parts))
        };
        assert_eq!(of(b"0", 8).unwrap()[0].1.shape, [1; 8]);
        let error = of(b"0", 9).unwrap_err();
        assert!(error.contains("9 dimensions"), "{error}");
        assert_eq!(of(&[b'0'; 64], 2).unwrap().len(), 1);
        let error = of(&[b'0'; 65], 2).unwrap_err();
        assert!(error.contains("65 bytes"), "{error}");
    }

    #[test]
    fn names_and_tensors_that_a_pickle_repeats_are_not_copied() {
        let twice = [
            &b"\x80\x02}(X\x01\x00\x00\x00wq\x01"[..],
            &tensor(),
            b"q\x02h\x01h\x02u.",
        ];
        let entries = state_dict(&twice.concat()).unwrap();
        let [(first, tensor), (second, same)] = &entries[..] else {
            panic!("expected two entries, found {}", entries.len());
        };
        assert!(Rc::ptr_eq(first, second) && Rc::ptr_eq(tensor, same));
    }
}
