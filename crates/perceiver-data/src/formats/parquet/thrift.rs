//! A bounds-checking reader of Thrift's compact protocol, in which Parquet's metadata is written.
//!
//! It reads at most the available bytes whatever a length claims, and keeps only integers.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read};

/// The largest nesting depth of structures, as in Thrift's own libraries.
const MAX_DEPTH: usize = 64;

/// The integer and boolean fields of a structure, by id.
pub(crate) type Integers = BTreeMap<i16, i64>;

/// The wire type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind(u8);

impl Kind {
    pub(crate) const I32: Self = Self(5);
    pub(crate) const LIST: Self = Self(9);
    pub(crate) const STRUCT: Self = Self(12);
}

/// A reader of the protocol.
pub(crate) struct Compact<R> {
    input: R,
    /// The number of bytes that may still be read.
    left: u64,
}

impl<R: Read> Compact<R> {
    /// Creates a reader of at most `limit` bytes of `input`.
    pub(crate) fn new(input: R, limit: u64) -> Self {
        Self { input, left: limit }
    }

    /// Returns the number of bytes that may still be read.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// Reads the next field header of a structure, `None` at its end. `last` is the previous id,
    /// initially 0.
    pub(crate) fn field(&mut self, last: &mut i16) -> io::Result<Option<(i16, Kind)>> {
        let byte = self.byte()?;
        let (step, kind) = (i16::from(byte >> 4), byte & 0xf);
        if kind == 0 {
            return Ok(None);
        }
        *last = match step {
            0 => i16::try_from(self.integer()?).map_err(|_| damaged())?,
            step => last.checked_add(step).ok_or_else(damaged)?,
        };
        Ok(Some((*last, Kind(kind))))
    }

    /// Reads the element type and length of a list; the length is at most the number of bytes left.
    pub(crate) fn list(&mut self) -> io::Result<(Kind, u64)> {
        let byte = self.byte()?;
        let count = match byte >> 4 {
            15 => self.varint()?,
            count => u64::from(count),
        };
        if count > self.left {
            return Err(damaged());
        }
        Ok((Kind(byte & 0xf), count))
    }

    /// Reads the integers of a structure and skips its other fields.
    pub(crate) fn integers(&mut self) -> io::Result<Integers> {
        let (mut fields, mut last) = (Integers::new(), 0);
        while let Some((id, kind)) = self.field(&mut last)? {
            let value = match kind.0 {
                1 => 1,
                2 => 0,
                3 => i64::from(self.byte()?.cast_signed()),
                4..=6 => self.integer()?,
                _ => {
                    self.pass(kind)?;
                    continue;
                }
            };
            fields.insert(id, value);
        }
        Ok(fields)
    }

    /// Skips the value of a field.
    pub(crate) fn pass(&mut self, kind: Kind) -> io::Result<()> {
        self.pass_within(kind, MAX_DEPTH)
    }

    fn pass_within(&mut self, kind: Kind, depth: usize) -> io::Result<()> {
        let depth = depth.checked_sub(1).ok_or_else(damaged)?;
        match kind.0 {
            1 | 2 => Ok(()),
            3 => self.byte().map(drop),
            4..=6 => self.varint().map(drop),
            7 => self.skip(8),
            8 => {
                let length = self.varint()?;
                self.skip(length)
            }
            9 | 10 => {
                let (kind, count) = self.list()?;
                (0..count).try_for_each(|_| self.element(kind, depth))
            }
            11 => self.map(depth),
            12 => {
                let mut last = 0;
                while let Some((_, kind)) = self.field(&mut last)? {
                    self.pass_within(kind, depth)?;
                }
                Ok(())
            }
            _ => Err(damaged()),
        }
    }

    fn map(&mut self, depth: usize) -> io::Result<()> {
        let count = self.varint()?;
        if count == 0 {
            return Ok(());
        }
        let kinds = self.byte()?;
        if count > self.left {
            return Err(damaged());
        }
        for _ in 0..count {
            self.element(Kind(kinds >> 4), depth)?;
            self.element(Kind(kinds & 0xf), depth)?;
        }
        Ok(())
    }

    /// Skips an element of a list or map, where a boolean takes a byte.
    fn element(&mut self, kind: Kind, depth: usize) -> io::Result<()> {
        match kind.0 {
            1 | 2 => self.byte().map(drop),
            _ => self.pass_within(kind, depth),
        }
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.left = self.left.checked_sub(1).ok_or_else(damaged)?;
        self.input.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    fn skip(&mut self, length: u64) -> io::Result<()> {
        self.left = self.left.checked_sub(length).ok_or_else(damaged)?;
        let skipped = io::copy(&mut self.input.by_ref().take(length), &mut io::sink())?;
        (skipped == length).then_some(()).ok_or_else(damaged)
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(damaged())
    }

    /// Reads a zigzag-encoded integer.
    pub(crate) fn integer(&mut self) -> io::Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }
}

fn damaged() -> io::Error {
    let finding = "inconsistent lengths";
    io::Error::new(ErrorKind::InvalidData, finding)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn compact(bytes: &[u8]) -> Compact<&[u8]> {
        Compact::new(bytes, bytes.len() as u64)
    }

    #[test]
    fn integers_are_read_and_other_fields_skipped() {
        let bytes = [
            0x15, 0x0d, // 1: i32 -7
            0x18, 0x02, b'a', b'b', // 2: two bytes
            0x29, 0x13, 0x05, // 4: a list of one byte
            0x11, // 5: true
            0x1c, 0x15, 0x02, 0x00, // 6: a structure
            0x05, 0x28, 0x04, // 20: i32 2
            0x1b, 0x01, 0x81, 0x01, b'x', 0x01, // 21: a map of one, bytes to booleans
            0x00,
        ];
        let mut compact = compact(&bytes);
        let expected = Integers::from([(1, -7), (5, 1), (20, 2)]);
        assert_eq!(compact.integers().unwrap(), expected);
    }

    #[test]
    fn lengths_beyond_the_end_are_rejected() {
        for bytes in [
            &[0x18, 0xff, 0xff, 0xff, 0xff, 0x0f][..],       // bytes
            &[0x19, 0xf1, 0xff, 0xff, 0xff, 0xff, 0x0f][..], // booleans
            &[0x1b, 0xff, 0xff, 0xff, 0x0f, 0x11][..],       // a map
            &[0x1c; 200][..],                                // nested structures
            &[
                0x15, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
            ][..],
        ] {
            assert!(compact(bytes).integers().is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = compact(&bytes).integers();
        }
    }
}
