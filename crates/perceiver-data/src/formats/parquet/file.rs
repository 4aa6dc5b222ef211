//! Reads the columns of one Parquet file.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType, DataType};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use perceiver_files::open_regular;
use rayon::prelude::*;

use crate::contain_panics::contained;
use crate::dataset::class_names::{MAX_CLASSES, require_few_enough};
use crate::dataset::image::Image;
use crate::dataset::labels::class_indices;
use crate::error::{DataError, Result};
use crate::formats::broken_images::BrokenImages;
use crate::formats::file_labels::{FileClasses, FileLabels};
use crate::formats::parquet::ParquetOptions;
use crate::formats::parquet::columns::{Column, ColumnNames, Columns};
use crate::formats::parquet::footer::read_footer;
use crate::formats::parquet::pages::Pages;
use crate::progress::{ProgressCallback, Work};

/// The number of rows decoded at a time: enough for all cores, without holding a file of photos
/// decoded at full size.
const CHUNK: usize = 1024;

/// The number of bytes of encoded images decoded at a time, if reached before [`CHUNK`]: with delta
/// encoding a few bytes of a page may expand to many large images.
const CHUNK_BYTES: usize = 256 << 20;

/// The largest text label in bytes. With delta encoding a few bytes may expand to many long
/// distinct texts.
const MAX_LABEL_BYTES: usize = 1024;

/// Converts panics of the `parquet` crate to errors (overflowing lengths, inconsistent levels).
pub(crate) fn contain_panics<T>(path: &Path, read: impl FnOnce() -> Result<T>) -> Result<T> {
    contained(read, || DataError::Parquet {
        path: path.to_owned(),
        finding: "inconsistent contents".into(),
    })
}

/// Opens a file and reads its footer.
///
/// # Errors
/// When it cannot be opened or has no valid footer.
pub(crate) fn open_file(path: &Path) -> Result<(File, ParquetMetaData)> {
    let (mut file, size) = open_regular(path).map_err(|source| DataError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let metadata = read_footer(&mut file, size).map_err(|error| damaged(path, &error))?;
    Ok((file, metadata))
}

/// An open file and the columns that are read.
pub(crate) struct ParquetFile<'a> {
    path: &'a Path,
    file: File,
    metadata: ParquetMetaData,
    pub(crate) columns: Columns,
}

impl<'a> ParquetFile<'a> {
    pub(crate) fn open(path: &'a Path, options: &ParquetOptions) -> Result<Self> {
        tracing::trace!("opening {}", path.display());
        let (file, metadata) = open_file(path)?;
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

    /// Returns the number of rows that the file claims.
    fn rows(&self) -> usize {
        let rows = self.metadata.file_metadata().num_rows();
        usize::try_from(rows).unwrap_or(0)
    }

    /// Returns a reader of one column of one row group.
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

    /// Reads the labels of all rows.
    pub(crate) fn labels(&self) -> Result<FileLabels> {
        let column = &self.columns.label;
        let (labels, classes) = if column.is_text {
            let (labels, names) = self.texts(column)?;
            (labels, FileClasses::Texts(names))
        } else {
            let limit = column.names.as_ref().map_or(MAX_CLASSES, Vec::len);
            let labels = class_indices(self.path, &self.integers(column)?, limit)?;
            let names = column.names.clone();
            (
                labels,
                names.map_or(FileClasses::Numbers, FileClasses::Listed),
            )
        };
        Ok(FileLabels {
            path: self.path.to_owned(),
            labels,
            classes,
        })
    }

    /// Reads a text column as indices into its distinct values, which are sorted.
    fn texts(&self, column: &Column) -> Result<(Vec<u32>, Vec<String>)> {
        let mut numbers: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
        let mut indices = Vec::new();
        for group in self.metadata.row_groups() {
            let reader = self.byte_arrays(group, column)?;
            self.in_chunks(group, column, reader, ByteArray::len, |start, cells| {
                for text in self.values(column, start, cells)? {
                    if text.len() > MAX_LABEL_BYTES {
                        return Err(self.finding(format!(
                            "a label of {} bytes in column {}, expected at most {MAX_LABEL_BYTES}",
                            text.len(),
                            column.name
                        )));
                    }
                    let next = numbers.len() as u32;
                    let number = numbers.get(text.data()).copied();
                    if number.is_none() {
                        numbers.insert(text.data().to_vec(), next);
                    }
                    indices.push(number.unwrap_or(next));
                }
                require_few_enough(self.path, numbers.len())
            })?;
        }
        let mut sorted_index = vec![0; numbers.len()];
        let mut names = Vec::with_capacity(numbers.len());
        for (at, (text, number)) in (0..).zip(numbers) {
            sorted_index[number as usize] = at;
            let name = std::str::from_utf8(&text).ok();
            let name = name.filter(|name| !name.trim().is_empty());
            names.push(name.map(str::to_owned).ok_or_else(|| {
                let shown = text.escape_ascii();
                self.finding(format!(
                    "the empty or non-UTF-8 label \"{shown}\" in column {}",
                    column.name
                ))
            })?);
        }
        let labels = indices.iter().map(|&number| sorted_index[number as usize]);
        Ok((labels.collect(), names))
    }

    /// Reads one column of byte arrays of one row group.
    fn byte_arrays(
        &self,
        group: &RowGroupMetaData,
        column: &Column,
    ) -> Result<ColumnReaderImpl<ByteArrayType>> {
        match self.reader(group, column)? {
            ColumnReader::ByteArrayColumnReader(reader) => Ok(reader),
            _ => Err(self.finding(format!("column {} without bytes", column.name))),
        }
    }

    /// Reads all values of an integer column.
    pub(crate) fn integers(&self, column: &Column) -> Result<Vec<i64>> {
        let mut values = Vec::new();
        for group in self.metadata.row_groups() {
            match self.reader(group, column)? {
                ColumnReader::Int32ColumnReader(reader) => {
                    let widened = |start, cells| {
                        let chunk = self.values(column, start, cells)?;
                        values.extend(chunk.into_iter().map(i64::from));
                        Ok(())
                    };
                    self.in_chunks(group, column, reader, |_| 0, widened)?;
                }
                ColumnReader::Int64ColumnReader(reader) => {
                    let taken = |start, cells| {
                        values.extend(self.values(column, start, cells)?);
                        Ok(())
                    };
                    self.in_chunks(group, column, reader, |_| 0, taken)?;
                }
                _ => return Err(self.finding(format!("column {} without integers", column.name))),
            }
        }
        Ok(values)
    }

    /// Reads all images, in order, downscaled to `shorter_side`. Errors that `broken` defers are
    /// returned in place of the images.
    pub(crate) fn images(
        &self,
        shorter_side: usize,
        broken: BrokenImages,
        watcher: &ProgressCallback,
    ) -> Result<Vec<Result<Image>>> {
        let column = &self.columns.image;
        let decoded = watcher.counter(Work::Decode, self.rows());
        let mut images: Vec<Result<Image>> = Vec::new();
        for group in self.metadata.row_groups() {
            let reader = self.byte_arrays(group, column)?;
            let before = images.len();
            let take = |start, cells: Vec<Option<ByteArray>>| {
                let decoded: Result<Vec<Result<Image>>> = cells
                    .par_iter()
                    .enumerate()
                    .map(|(at, bytes)| {
                        let origin =
                            format!("{}, row {}", self.path.display(), before + start + at);
                        // A null cell is an image of no bytes: a broken one.
                        let bytes = bytes.as_ref().map_or(&[][..], ByteArray::data);
                        let image = Image::decode_shrunk(bytes, Path::new(&origin), shorter_side);
                        decoded.one_more();
                        broken.apply(image)
                    })
                    .collect();
                images.extend(decoded?);
                Ok(())
            };
            self.in_chunks(group, column, reader, ByteArray::len, take)?;
        }
        Ok(images)
    }

    /// Reads the encoded images of ascending `rows`.
    pub(crate) fn encoded(&self, rows: &[usize]) -> Result<Vec<Vec<u8>>> {
        let column = &self.columns.image;
        let (mut images, mut start, mut rows) = (Vec::new(), 0, rows);
        for group in self.metadata.row_groups() {
            let end = start + usize::try_from(group.num_rows()).unwrap_or(0);
            let (here, rest) = rows.split_at(rows.partition_point(|&row| row < end));
            if !here.is_empty() {
                let reader = self.byte_arrays(group, column)?;
                let here = here.iter().map(|row| row - start);
                images.extend(self.at_rows(column, reader, here)?);
            }
            (start, rows) = (end, rest);
        }
        match rows.first() {
            None => Ok(images),
            Some(row) => Err(self.finding(format!("no row {row}"))),
        }
    }

    /// Reads one column of one row group at ascending rows of that group.
    fn at_rows(
        &self,
        column: &Column,
        mut reader: ColumnReaderImpl<ByteArrayType>,
        rows: impl Iterator<Item = usize>,
    ) -> Result<Vec<Vec<u8>>> {
        let (mut next, mut images) = (0, Vec::new());
        for row in rows {
            let (mut levels, mut values) = (Vec::new(), Vec::new());
            let mut read = || {
                reader.skip_records(row - next)?;
                reader.read_records(1, Some(&mut levels), None, &mut values)
            };
            let (rows, ..) = read().map_err(|error| damaged(self.path, &error))?;
            if rows != 1 {
                return Err(self.finding(format!("no row {row} in a row group")));
            }
            // A null cell is an image of no bytes: a broken one.
            let cells = self.cells(column, 1, &levels, values)?;
            let bytes = cells.into_iter().flatten().next();
            images.push(bytes.map_or_else(Vec::new, |bytes: ByteArray| bytes.data().to_vec()));
            next = row + 1;
        }
        Ok(images)
    }

    /// Passes the cells of one column of one row group to `take`, up to [`CHUNK`] cells or
    /// [`CHUNK_BYTES`] at a time, with the number of previous cells. A null cell is `None`. `bytes`
    /// returns the heap size of a value.
    fn in_chunks<T: DataType>(
        &self,
        group: &RowGroupMetaData,
        column: &Column,
        mut reader: ColumnReaderImpl<T>,
        bytes: impl Fn(&T::T) -> usize,
        mut take: impl FnMut(usize, Vec<Option<T::T>>) -> Result<()>,
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
                    "more values in column {} than the {} rows of a row group",
                    column.name,
                    group.num_rows()
                )));
            }
            take(done, self.cells(column, rows, &levels, values)?)?;
            done += rows;
        }
    }

    /// Expands the non-null `values` to cells by their definition levels.
    fn cells<T>(
        &self,
        column: &Column,
        rows: usize,
        levels: &[i16],
        values: Vec<T>,
    ) -> Result<Vec<Option<T>>> {
        // A required column has no levels.
        let filled = |row: usize| {
            let level = levels.get(row);
            level.is_none_or(|&level| level >= column.max_definition)
        };
        let count = (0..rows).filter(|&row| filled(row)).count();
        if count != values.len() {
            let len = values.len();
            return Err(self.finding(format!(
                "{len} values for {count} cells of column {}",
                column.name
            )));
        }
        let mut values = values.into_iter();
        let cells = (0..rows).map(|row| if filled(row) { values.next() } else { None });
        Ok(cells.collect())
    }

    /// Returns the values of cells that must not be null, the first of which is in row `start` of a
    /// row group.
    fn values<T>(&self, column: &Column, start: usize, cells: Vec<Option<T>>) -> Result<Vec<T>> {
        let empty = cells.iter().position(Option::is_none);
        match empty {
            None => Ok(cells.into_iter().flatten().collect()),
            Some(row) => Err(self.finding(format!(
                "no value in column {} around row {} of a row group",
                column.name,
                start + row
            ))),
        }
    }

    pub(crate) fn finding(&self, finding: String) -> DataError {
        DataError::Parquet {
            path: self.path.to_owned(),
            finding,
        }
    }
}

/// The error of a file that the `parquet` crate refuses.
pub(crate) fn damaged(path: &Path, error: &ParquetError) -> DataError {
    DataError::Parquet {
        path: path.to_owned(),
        finding: error.to_string(),
    }
}
