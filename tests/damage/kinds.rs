//! Kinds of damage to a safetensors file.

use crate::safetensors::{Parts, header};

/// A kind of damage to a safetensors file: its name, the change, and the expected error.
pub(crate) type Damage = (&'static str, Box<dyn Fn(&[u8]) -> Vec<u8>>, &'static str);

pub(crate) fn damage(
    what: &'static str,
    change: impl Fn(&[u8]) -> Vec<u8> + 'static,
    message: &'static str,
) -> Damage {
    (what, Box::new(change), message)
}

pub(crate) fn cut(what: &'static str, length: impl Fn(&[u8]) -> usize + 'static) -> Damage {
    let change = move |file: &[u8]| file[..length(file)].to_vec();
    damage(what, change, "is damaged or invalid")
}

pub(crate) fn flipped(what: &'static str, byte: impl Fn(&[u8]) -> usize + 'static) -> Damage {
    let change = move |file: &[u8]| {
        let mut file = file.to_vec();
        let byte = byte(&file);
        file[byte] ^= 1;
        file
    };
    damage(what, change, "is damaged or invalid")
}

/// A change with a recomputed checksum.
pub(crate) fn resealed(
    what: &'static str,
    change: fn(&mut Parts),
    message: &'static str,
) -> Damage {
    let change = move |file: &[u8]| {
        let mut parts = Parts::of(file);
        change(&mut parts);
        parts.sealed()
    };
    damage(what, change, message)
}

pub(crate) fn position(file: &[u8], text: &str) -> usize {
    let mut windows = file.windows(text.len());
    windows
        .position(|window| window == text.as_bytes())
        .unwrap()
}

/// Returns the kinds of damage that apply to weights and states alike.
pub(crate) fn to_any_file() -> Vec<Damage> {
    let sum = "content with sha256";
    vec![
        cut("emptied", |_| 0),
        cut("cut in the header's length", |_| 4),
        cut("cut in the header", |_| 100),
        cut("cut after the header", |file| header(file).1),
        cut("cut in half", |file| file.len() / 2),
        cut("cut by a byte", |file| file.len() - 1),
        damage(
            "longer",
            |file| [file, b"!"].concat(),
            "is damaged or invalid",
        ),
        damage(
            "another file",
            |_| b"not a tensor in it".to_vec(),
            "is damaged or invalid",
        ),
        flipped("flipped in the header's length", |_| 0),
        flipped("flipped in the header's length, high", |_| 7),
        flipped("flipped in the header", |file| position(file, "dtype")),
        flipped("flipped in a shape", |file| {
            position(file, "\"shape\":[") + 9
        }),
        flipped("flipped in the checksum", |file| {
            position(file, "sha256\":\"") + 12
        }),
        flipped("flipped in the last byte", |file| file.len() - 1),
        damage(
            "without a checksum",
            |file| {
                let mut parts = Parts::of(file);
                parts.metadata.remove("sha256");
                parts.unsealed()
            },
            "with a sha256 in its metadata, found none",
        ),
        damage(
            "a tensor renamed",
            |file| {
                let mut parts = Parts::of(file);
                let (name, tensor) = parts.tensors.pop_first().unwrap();
                parts.tensors.insert(name + "2", tensor);
                parts.unsealed()
            },
            sum,
        ),
    ]
}
