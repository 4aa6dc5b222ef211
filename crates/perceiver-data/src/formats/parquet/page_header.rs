//! Parquet page headers: size and encoding of a page.

use std::io::{self, Read};

use crate::formats::parquet::thrift::{Compact, Integers, Kind};

/// The header of a page, with the values in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PageHeader {
    pub(crate) kind: i64,
    /// The decompressed size in bytes.
    pub(crate) size: i64,
    /// The size in the file, in bytes.
    pub(crate) compressed_size: i64,
    /// The fields of the page type's own header.
    pub(crate) fields: Integers,
}

impl PageHeader {
    pub(crate) const DATA: i64 = 0;
    pub(crate) const INDEX: i64 = 1;
    pub(crate) const DICTIONARY: i64 = 2;
    pub(crate) const DATA_V2: i64 = 3;

    /// Reads a header of at most `limit` bytes; also returns its length.
    ///
    /// # Errors
    /// When it cannot be read or its lengths contradict each other.
    pub(crate) fn read(input: impl Read, limit: u64) -> io::Result<(Self, u64)> {
        let mut compact = Compact::new(input, limit);
        let (mut numbers, mut kinds, mut last) = (Integers::new(), Vec::new(), 0);
        while let Some((id, kind)) = compact.field(&mut last)? {
            match (id, kind) {
                (1..=3, Kind::I32) => {
                    numbers.insert(id, compact.integer()?);
                }
                (5 | 7 | 8, Kind::STRUCT) => kinds.push((id, compact.integers()?)),
                _ => compact.pass(kind)?,
            }
        }
        let number = |id| numbers.get(&id).copied().unwrap_or(-1);
        let kind = number(1);
        let own = match kind {
            Self::DATA => 5,
            Self::DICTIONARY => 7,
            Self::DATA_V2 => 8,
            _ => 0,
        };
        let fields = kinds.into_iter().find(|(id, _)| *id == own);
        let header = Self {
            kind,
            size: number(2),
            compressed_size: number(3),
            fields: fields.map(|(_, fields)| fields).unwrap_or_default(),
        };
        Ok((header, limit - compact.left()))
    }
}
