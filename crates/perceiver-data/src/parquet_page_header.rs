//! What stands before a page of a Parquet file: how large it is, and how its values are written.

use std::io::{self, Read};

use crate::thrift_compact::{Compact, Integers, Kind};

/// The header of a page, its numbers as the file has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PageHeader {
    pub(crate) kind: i64,
    /// Bytes when decompressed.
    pub(crate) size: i64,
    /// Bytes in the file.
    pub(crate) compressed_size: i64,
    /// Of the page's own kind.
    pub(crate) fields: Integers,
}

impl PageHeader {
    pub(crate) const DATA: i64 = 0;
    pub(crate) const INDEX: i64 = 1;
    pub(crate) const DICTIONARY: i64 = 2;
    pub(crate) const DATA_V2: i64 = 3;

    /// Reads a header, of at most `limit` bytes; and the number of its bytes.
    ///
    /// # Errors
    /// When it cannot be read or its lengths contradict one another.
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
