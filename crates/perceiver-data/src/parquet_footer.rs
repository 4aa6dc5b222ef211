//! The footer of a Parquet file, held to bounds before it is taken apart.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use crate::thrift_compact::{Compact, Kind};

/// The most bytes of a footer, 16 MiB: that of a file of a million images and a hundred thousand class names.
const MAX_FOOTER_BYTES: u64 = 16 << 20;

/// The most columns, those that others lie in among them.
const MAX_COLUMNS: u64 = 10_000;

/// The deepest that columns may lie in one another.
const MAX_SCHEMA_DEPTH: usize = 64;

/// Length and magic number at the end.
const TAIL: u64 = 8;

/// What the footer of a file of `size` bytes says.
///
/// # Errors
/// When the file cannot be read or is not Parquet, and when its footer is longer or deeper than any honest one, or claims
/// more rows than the file has bytes.
pub(crate) fn read_footer(file: &mut File, size: u64) -> Result<ParquetMetaData, ParquetError> {
    let no_parquet = || damaged("no Parquet file".to_owned());
    let end = size.checked_sub(TAIL).ok_or_else(no_parquet)?;
    let mut tail = [0; TAIL as usize];
    file.seek(SeekFrom::Start(end))?;
    file.read_exact(&mut tail)?;
    let [a, b, c, d, magic @ ..] = tail;
    if magic == *b"PARE" {
        return Err(damaged("a footer that is encrypted".to_owned()));
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

/// Goes through the footer as it lies there: the `parquet` crate follows nested columns as deep as they claim to lie, until
/// there is no stack, and lists as long as they claim to be.
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

/// How deep one is in columns that come each before those in it.
#[derive(Default)]
struct Depth {
    /// How many are still to come in each that one is in.
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
            let finding = format!("columns more than {MAX_SCHEMA_DEPTH} deep in one another");
            return Err(damaged(finding));
        }
        while self.open.last().is_some_and(|&left| left <= 0) {
            self.open.pop();
        }
        Ok(())
    }
}

/// Makes sure that there are no more rows than bytes. Values that repeat take next to no room, so a few bytes may claim any
/// number of them; images that differ take some bytes each.
fn require_rows(metadata: &ParquetMetaData, size: u64) -> Result<(), ParquetError> {
    let told = u64::try_from(metadata.file_metadata().num_rows()).ok();
    let groups = metadata.row_groups().iter();
    let counted = groups.map(|group| u64::try_from(group.num_rows()).ok());
    let counted = { counted }.try_fold(0_u64, |sum, rows| sum.checked_add(rows?));
    match told {
        Some(rows) if told == counted && rows <= size => Ok(()),
        _ => Err(damaged(format!(
            "{} rows, expected as many as its row groups have, and no more than its {size} bytes",
            metadata.file_metadata().num_rows()
        ))),
    }
}

fn damaged(finding: String) -> ParquetError {
    ParquetError::External(Box::new(io::Error::other(finding)))
}
