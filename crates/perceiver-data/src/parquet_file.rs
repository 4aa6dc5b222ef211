//! One Parquet file, whose columns are read in pieces: integers as they are, pictures decoded on all cores.

use std::fs::File;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;

use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType, DataType};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use perceiver_files::open_regular;
use rayon::prelude::*;

use crate::broken_pictures::BrokenPictures;
use crate::error::{DataError, Result};
use crate::image::Image;
use crate::parquet::ParquetOptions;
use crate::parquet_columns::{Column, ColumnNames, Columns};
use crate::parquet_footer::read_footer;
use crate::parquet_pages::Pages;
use crate::watcher::{Watcher, Work};

/// Rows decoded at a time: enough for all cores, while a file of photographs is never held decoded at full size.
const CHUNK: usize = 1024;

/// Bytes of encoded images that are decoded at a time, where these are fewer than [`CHUNK`]: in a delta encoding a few bytes
/// of a page may come to many large ones.
const CHUNK_BYTES: usize = 256 << 20;

/// The `parquet` crate returns errors for nearly all malformed files and panics for the rest (lengths that overflow,
/// levels that disagree). A file is input, so a panic in its decoder is turned into what it means: a damaged file.
pub(crate) fn contain_panics<T>(path: &Path, read: impl FnOnce() -> Result<T>) -> Result<T> {
    panic::catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| {
        Err(DataError::Parquet {
            path: path.to_owned(),
            finding: "contents that contradict one another".into(),
        })
    })
}

/// An open file and the columns of it that are read.
pub(crate) struct ParquetFile<'a> {
    path: &'a Path,
    file: File,
    metadata: ParquetMetaData,
    pub(crate) columns: Columns,
}

impl<'a> ParquetFile<'a> {
    pub(crate) fn open(path: &'a Path, options: &ParquetOptions) -> Result<Self> {
        tracing::trace!("opening {}", path.display());
        let (mut file, size) = open_regular(path).map_err(|source| DataError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        let metadata = read_footer(&mut file, size).map_err(|error| damaged(path, &error))?;
        let names = ColumnNames {
            image: options.image_column.as_deref(),
            label: options.label_column.as_deref(),
            labels: options.labels,
        };
        let columns = Columns::find(path, metadata.file_metadata(), &names)?;
        Ok(Self {
            path,
            file,
            metadata,
            columns,
        })
    }

    /// As many as the file says it has.
    fn rows(&self) -> usize {
        let rows = self.metadata.file_metadata().num_rows();
        usize::try_from(rows).unwrap_or(0)
    }

    /// The values of one column of one row group.
    fn reader(&self, group: &RowGroupMetaData, column: &Column) -> Result<ColumnReader> {
        let pages = Pages::new(
            &self.file,
            group.column(column.index),
            column.max_definition,
        );
        let pages = pages.map_err(|error| damaged(self.path, &error))?;
        let schema = self.metadata.file_metadata().schema_descr();
        Ok(get_column_reader(
            schema.column(column.index),
            Box::new(pages),
        ))
    }

    /// All values of an integer column.
    pub(crate) fn integers(&self, column: &Column) -> Result<Vec<i64>> {
        let mut values = Vec::new();
        for group in self.metadata.row_groups() {
            match self.reader(group, column)? {
                ColumnReader::Int32ColumnReader(reader) => {
                    self.in_chunks(
                        group,
                        column,
                        reader,
                        |_| 0,
                        |_, chunk| {
                            values.extend(chunk.into_iter().map(i64::from));
                            Ok(())
                        },
                    )?;
                }
                ColumnReader::Int64ColumnReader(reader) => {
                    self.in_chunks(
                        group,
                        column,
                        reader,
                        |_| 0,
                        |_, chunk| {
                            values.extend(chunk);
                            Ok(())
                        },
                    )?;
                }
                _ => return Err(self.finding(format!("column {} without integers", column.name))),
            }
        }
        Ok(values)
    }

    /// What came of all pictures, in order, shrunk to `shorter_side`: errors are those that `broken` lets through.
    pub(crate) fn pictures(
        &self,
        shorter_side: usize,
        broken: BrokenPictures,
        watcher: &Watcher,
    ) -> Result<Vec<Result<Image>>> {
        let column = &self.columns.image;
        let decoded = watcher.counter(Work::Decode, self.rows());
        let mut pictures: Vec<Result<Image>> = Vec::new();
        for group in self.metadata.row_groups() {
            let reader = self.reader(group, column)?;
            let ColumnReader::ByteArrayColumnReader(reader) = reader else {
                return Err(self.finding(format!("column {} without bytes", column.name)));
            };
            let before = pictures.len();
            let take = |start, chunk: Vec<ByteArray>| {
                let decoded: Result<Vec<Result<Image>>> = chunk
                    .par_iter()
                    .enumerate()
                    .map(|(at, bytes)| {
                        let origin =
                            format!("{}, row {}", self.path.display(), before + start + at);
                        let picture = Image::decode(bytes.data(), Path::new(&origin));
                        decoded.one_more();
                        broken.judge(picture.map(|picture| picture.shrunk_to(shorter_side)))
                    })
                    .collect();
                pictures.extend(decoded?);
                Ok(())
            };
            self.in_chunks(group, column, reader, ByteArray::len, take)?;
        }
        Ok(pictures)
    }

    /// The encoded pictures of these rows, which ascend.
    pub(crate) fn encoded(&self, rows: &[usize]) -> Result<Vec<Vec<u8>>> {
        let column = &self.columns.image;
        let (mut pictures, mut start, mut rows) = (Vec::new(), 0, rows);
        for group in self.metadata.row_groups() {
            let end = start + usize::try_from(group.num_rows()).unwrap_or(0);
            let (here, rest) = rows.split_at(rows.partition_point(|&row| row < end));
            if !here.is_empty() {
                let reader = self.reader(group, column)?;
                let ColumnReader::ByteArrayColumnReader(reader) = reader else {
                    return Err(self.finding(format!("column {} without bytes", column.name)));
                };
                let here = here.iter().map(|row| row - start);
                pictures.extend(self.at_rows(column, reader, here)?);
            }
            (start, rows) = (end, rest);
        }
        match rows.first() {
            None => Ok(pictures),
            Some(row) => Err(self.finding(format!("no row {row}"))),
        }
    }

    /// The values of one column of one row group at these rows of it, which ascend.
    fn at_rows(
        &self,
        column: &Column,
        mut reader: ColumnReaderImpl<ByteArrayType>,
        rows: impl Iterator<Item = usize>,
    ) -> Result<Vec<Vec<u8>>> {
        let (mut next, mut found) = (0, Vec::new());
        for row in rows {
            let (mut levels, mut values) = (Vec::new(), Vec::new());
            let mut read = || {
                reader.skip_records(row - next)?;
                reader.read_records(1, Some(&mut levels), None, &mut values)
            };
            read().map_err(|error| damaged(self.path, &error))?;
            let [value] = &values[..] else {
                let column = &column.name;
                return Err(self.finding(format!(
                    "no value in column {column} around row {row} of a row group"
                )));
            };
            found.push(value.data().to_vec());
            next = row + 1;
        }
        Ok(found)
    }

    /// Hands the values of one column of one row group to `take`, up to [`CHUNK`] of them or [`CHUNK_BYTES`] at a time, each
    /// time with the number of values before. `bytes` are those of a value beyond its own size.
    fn in_chunks<T: DataType>(
        &self,
        group: &RowGroupMetaData,
        column: &Column,
        mut reader: ColumnReaderImpl<T>,
        bytes: impl Fn(&T::T) -> usize,
        mut take: impl FnMut(usize, Vec<T::T>) -> Result<()>,
    ) -> Result<()> {
        let step = match T::get_physical_type() {
            Type::BYTE_ARRAY => 1,
            _ => CHUNK,
        };
        let mut done = 0;
        loop {
            let (mut levels, mut values) = (Vec::new(), Vec::new());
            let (mut rows, mut taken) = (0, 0);
            while rows < CHUNK && taken < CHUNK_BYTES {
                let before = values.len();
                let (more, ..) = reader
                    .read_records(step, Some(&mut levels), None, &mut values)
                    .map_err(|error| damaged(self.path, &error))?;
                if more == 0 {
                    break;
                }
                rows += more;
                taken += values[before..].iter().map(&bytes).sum::<usize>();
            }
            if rows == 0 {
                return Ok(());
            }
            if (done + rows) as u64 > group.num_rows().unsigned_abs() {
                return Err(self.finding(format!(
                    "more values in column {} than a row group has rows, {}",
                    column.name,
                    group.num_rows()
                )));
            }
            if values.len() != rows {
                let empty = levels
                    .iter()
                    .position(|&level| level < column.max_definition);
                return Err(self.finding(format!(
                    "no value in column {} around row {} of a row group",
                    column.name,
                    done + empty.unwrap_or(0)
                )));
            }
            take(done, values)?;
            done += rows;
        }
    }

    pub(crate) fn finding(&self, finding: String) -> DataError {
        DataError::Parquet {
            path: self.path.to_owned(),
            finding,
        }
    }
}

fn damaged(path: &Path, error: &ParquetError) -> DataError {
    DataError::Parquet {
        path: path.to_owned(),
        finding: error.to_string(),
    }
}
