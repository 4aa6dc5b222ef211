//! Reads a Parquet footer after checking its size and its counts.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use crate::formats::parquet::thrift::{Compact, Kind};

/// The largest footer in bytes, 16 MiB: that of a file of a million images and a hundred thousand
/// class names.
const MAX_FOOTER_BYTES: u64 = 16 << 20;

/// The largest number of columns, including nested ones.
const MAX_COLUMNS: u64 = 10_000;

/// The largest nesting depth of columns.
const MAX_SCHEMA_DEPTH: usize = 64;

/// The size of length and magic number at the end of a file.
const TAIL: u64 = 8;

/// Reads the footer of a file of `size` bytes.
///
/// # Errors
/// When the file cannot be read or is not Parquet, its footer is too long or too deep, or it claims
/// more rows than the file has bytes.
pub(crate) fn read_footer(file: &mut File, size: u64) -> Result<ParquetMetaData, ParquetError> {
    let no_parquet = || damaged("no Parquet footer".to_owned());
    let end = size.checked_sub(TAIL).ok_or_else(no_parquet)?;
    let mut tail = [0; TAIL as usize];
    file.seek(SeekFrom::Start(end))?;
    file.read_exact(&mut tail)?;
    let [a, b, c, d, magic @ ..] = tail;
    if magic == *b"PARE" {
        return Err(damaged("an encrypted footer".to_owned()));
    }
    let length = u64::from(u32::from_le_bytes([a, b, c, d]));
    let start = end.checked_sub(length).filter(|_| magic == *b"PAR1");
    let start = start.ok_or_else(no_parquet)?;
    if length > MAX_FOOTER_BYTES {
        return Err(damaged(format!(
            "a footer of {length} bytes, expected at most {} MiB",
            MAX_FOOTER_BYTES >> 20
        )));
    }
    let mut footer = vec![0; length as usize];
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(&mut footer)?;
    require_shallow(&footer)?;
    let metadata = ParquetMetaDataReader::decode_metadata(&footer)?;
    require_rows(&metadata, size)?;
    Ok(metadata)
}

/// Checks the raw footer's nesting: the `parquet` crate recurses as deep as nested columns claim,
/// until the stack overflows, and follows lists as long as they claim to be.
fn require_shallow(footer: &[u8]) -> Result<(), ParquetError> {
    const SCHEMA: i16 = 2;
    let mut compact = Compact::new(footer, footer.len() as u64);
    let (mut last, mut seen) = (0, false);
    while let Some((id, kind)) = compact.field(&mut last)? {
        if id != SCHEMA {
            compact.pass(kind)?;
            continue;
        }
        if kind != Kind::LIST || std::mem::replace(&mut seen, true) {
            return Err(damaged("no list of columns".to_owned()));
        }
        let (kind, count) = compact.list()?;
        if count > 0 && kind != Kind::STRUCT {
            return Err(damaged("no list of columns".to_owned()));
        }
        if count > MAX_COLUMNS {
            return Err(damaged(format!(
                "{count} columns, expected at most {MAX_COLUMNS}"
            )));
        }
        let mut depth = Depth::default();
        for _ in 0..count {
            const CHILDREN: i16 = 5;
            let column = compact.integers()?;
            depth.enter(column.get(&CHILDREN).copied().unwrap_or_default())?;
        }
    }
    Ok(())
}

/// The nesting depth in a schema that lists columns before their children.
#[derive(Default)]
struct Depth {
    /// The number of children still to come of each open column.
    open: Vec<i64>,
}

impl Depth {
    fn enter(&mut self, children: i64) -> Result<(), ParquetError> {
        if let Some(left) = self.open.last_mut() {
            *left -= 1;
        }
        if children > 0 {
            self.open.push(children);
        }
        if self.open.len() > MAX_SCHEMA_DEPTH {
            let finding = format!("columns nested more than {MAX_SCHEMA_DEPTH} deep");
            return Err(damaged(finding));
        }
        while self.open.last().is_some_and(|&left| left <= 0) {
            self.open.pop();
        }
        Ok(())
    }
}

/// Checks that there are no more rows than bytes. Repeated values take almost no space, so a few
/// bytes may claim any number of them; distinct images take some bytes each.
fn require_rows(metadata: &ParquetMetaData, size: u64) -> Result<(), ParquetError> {
    let declared = u64::try_from(metadata.file_metadata().num_rows()).ok();
    let groups = metadata.row_groups().iter();
    let counted = groups.map(|group| u64::try_from(group.num_rows()).ok());
    let counted = { counted }.try_fold(0_u64, |sum, rows| sum.checked_add(rows?));
    match declared {
        Some(rows) if declared == counted && rows <= size => Ok(()),
        _ => Err(damaged(format!(
            "{} rows, expected as many as its row groups have, and no more than its {size} bytes",
            metadata.file_metadata().num_rows()
        ))),
    }
}

fn damaged(finding: String) -> ParquetError {
    ParquetError::External(Box::new(io::Error::other(finding)))
}
