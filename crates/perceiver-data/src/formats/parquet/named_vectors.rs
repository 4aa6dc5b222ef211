//! Parquet files of named vectors, such as the embeddings of images: one row per vector.
//!
//! The columns are `image` and `image_percent_encoded`, texts, and `embedding`, a list of `f32`.
//! Values are stored plainly, so that a file cannot claim more of them than it has bytes.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::{Compression, Encoding};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{KeyValue, ParquetMetaData, RowGroupMetaData};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use crate::error::{DataError, Result};
use crate::formats::parquet::file::{contain_panics, damaged, open_file};
use crate::formats::parquet::pages::Pages;

const SCHEMA: &str = "message embeddings {
    required binary image (STRING);
    optional binary image_percent_encoded (STRING);
    required group embedding (LIST) { repeated group list { required float element; } }
}";

/// The leaf columns of [`SCHEMA`].
const LEAVES: [&str; 3] = ["image", "image_percent_encoded", "embedding.list.element"];

/// The number of values, 64 MiB, after which a row group is written.
const GROUP_VALUES: usize = 1 << 24;

/// The number of rows after which a row group is written.
const GROUP_ROWS: usize = 1 << 16;

/// The name of a vector: a file name, and all its bytes percent-encoded if they are not UTF-8.
pub type VectorName = (String, Option<String>);

/// Writes a Parquet file of named vectors, one row group in memory at a time.
///
/// ```
/// use perceiver_data::{NamedVectorWriter, read_named_vectors};
///
/// let dir = tempfile::tempdir().unwrap();
/// let path = dir.path().join("vectors.parquet");
/// let mut writer = NamedVectorWriter::new(std::fs::File::create(&path).unwrap(), 2).unwrap();
/// writer.append(&[("a.png".to_string(), None)], &[1.0, 0.5]).unwrap();
/// writer.finish("made_by", "me").unwrap();
/// let file = read_named_vectors(&path, "made_by")?;
/// assert_eq!((file.values, file.width), (vec![1.0, 0.5], 2));
/// assert_eq!(file.metadata.as_deref(), Some("me"));
/// # Ok::<(), perceiver_data::DataError>(())
/// ```
#[derive(Debug)]
pub struct NamedVectorWriter {
    writer: SerializedFileWriter<File>,
    width: usize,
    names: Vec<VectorName>,
    values: Vec<f32>,
}

impl NamedVectorWriter {
    /// Starts a file of vectors of `width` values, which must not be 0.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn new(file: File, width: usize) -> io::Result<Self> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::UNCOMPRESSED)
            .set_dictionary_enabled(false)
            .build();
        let schema = Arc::new(parse_message_type(SCHEMA).map_err(io::Error::other)?);
        let writer = SerializedFileWriter::new(file, schema, Arc::new(properties));
        Ok(Self {
            writer: writer.map_err(io::Error::other)?,
            width,
            names: Vec::new(),
            values: Vec::new(),
        })
    }

    /// Appends vectors: `values` `[names, width]`.
    ///
    /// # Errors
    /// When the file cannot be written.
    ///
    /// # Panics
    /// When there are not `width` values for every name.
    pub fn append(&mut self, names: &[VectorName], values: &[f32]) -> io::Result<()> {
        assert_eq!(names.len() * self.width, values.len(), "values of vectors");
        self.names.extend_from_slice(names);
        self.values.extend_from_slice(values);
        if self.values.len() >= GROUP_VALUES || self.names.len() >= GROUP_ROWS {
            self.flush().map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// Finishes the file with an entry of its key-value metadata, and returns it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn finish(mut self, key: &str, metadata: &str) -> io::Result<File> {
        self.flush().map_err(io::Error::other)?;
        let pair = KeyValue::new(key.to_owned(), metadata.to_owned());
        self.writer.append_key_value_metadata(pair);
        self.writer.into_inner().map_err(io::Error::other)
    }

    /// Writes the buffered vectors as a row group.
    fn flush(&mut self) -> ParquetResult<()> {
        if self.names.is_empty() {
            return Ok(());
        }
        let (names, values) = (
            std::mem::take(&mut self.names),
            std::mem::take(&mut self.values),
        );
        let encoded: Vec<ByteArray> = names
            .iter()
            .filter_map(|(_, encoded)| encoded.as_deref().map(ByteArray::from))
            .collect();
        let is_encoded: Vec<i16> = names
            .iter()
            .map(|(_, encoded)| i16::from(encoded.is_some()))
            .collect();
        let shown: Vec<ByteArray> = names
            .iter()
            .map(|(name, _)| ByteArray::from(name.as_str()))
            .collect();
        // Level 0 starts a new list, and definition level 1 is a value.
        let starts = (0..values.len()).map(|value| i16::from(value % self.width != 0));
        let (starts, defined) = (starts.collect::<Vec<_>>(), vec![1; values.len()]);
        let mut group = self.writer.next_row_group()?;
        let no_column = || ParquetError::General("fewer columns than the schema has".to_owned());
        let mut column = group.next_column()?.ok_or_else(no_column)?;
        column
            .typed::<ByteArrayType>()
            .write_batch(&shown, None, None)?;
        column.close()?;
        let mut column = group.next_column()?.ok_or_else(no_column)?;
        column
            .typed::<ByteArrayType>()
            .write_batch(&encoded, Some(&is_encoded), None)?;
        column.close()?;
        let mut column = group.next_column()?.ok_or_else(no_column)?;
        column
            .typed::<FloatType>()
            .write_batch(&values, Some(&defined), Some(&starts))?;
        column.close()?;
        group.close()?;
        Ok(())
    }
}

/// The content of a Parquet file of named vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedVectors {
    /// The names of the vectors.
    pub names: Vec<VectorName>,
    /// The values, `[names, width]`.
    pub values: Vec<f32>,
    /// The number of values of each vector; 0 without vectors.
    pub width: usize,
    /// The value of the requested key of the metadata.
    pub metadata: Option<String>,
}

/// Reads the output of [`NamedVectorWriter`], with the value of `key` in its metadata.
///
/// # Errors
/// [`DataError::Parquet`] when the file is no complete Parquet file or its vectors have different
/// lengths, [`DataError::Column`] when it has other columns.
pub fn read_named_vectors(path: &Path, key: &str) -> Result<NamedVectors> {
    contain_panics(path, || Reader::open(path)?.read(key))
}

struct Reader<'a> {
    path: &'a Path,
    file: File,
    metadata: ParquetMetaData,
}

impl<'a> Reader<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let (file, metadata) = open_file(path)?;
        let leaves = metadata.file_metadata().schema_descr().columns().iter();
        let found: Vec<String> = leaves.map(|leaf| leaf.path().string()).collect();
        if found != LEAVES {
            return Err(DataError::Column {
                path: path.to_owned(),
                expected: format!("the columns {}", LEAVES.join(", ")),
                found: found.join(", "),
            });
        }
        Ok(Self {
            path,
            file,
            metadata,
        })
    }

    fn read(&self, key: &str) -> Result<NamedVectors> {
        let (mut names, mut values, mut width) = (Vec::new(), Vec::new(), 0);
        for group in self.metadata.row_groups() {
            let rows = usize::try_from(group.num_rows()).unwrap_or(0);
            let (shown, _) = self.column::<ByteArrayType>(group, 0, rows, byte_arrays)?;
            let (encoded, levels) = self.column::<ByteArrayType>(group, 1, rows, byte_arrays)?;
            let (floats, starts) = self.column::<FloatType>(group, 2, rows, floats)?;
            let lengths = self.length_of_lists(&starts, floats.len(), rows)?;
            if width != 0 && lengths != 0 && lengths != width {
                return Err(self.finding(format!("vectors of {width} and of {lengths} values")));
            }
            width = width.max(lengths);
            let is_encoded = levels.iter().map(|&level| level == 1);
            names.extend(self.names(&shown, &encoded, is_encoded, rows)?);
            values.extend(floats);
        }
        let pairs = self.metadata.file_metadata().key_value_metadata();
        let metadata = pairs.into_iter().flatten().find(|pair| pair.key == key);
        Ok(NamedVectors {
            names,
            values,
            width,
            metadata: metadata.and_then(|pair| pair.value.clone()),
        })
    }

    /// Reads the values of a column of a row group, and their definition levels or, in a column of
    /// lists, their repetition levels.
    fn column<T: DataType>(
        &self,
        group: &RowGroupMetaData,
        index: usize,
        rows: usize,
        typed: fn(ColumnReader) -> Option<ColumnReaderImpl<T>>,
    ) -> Result<(Vec<T::T>, Vec<i16>)> {
        let error = |error| damaged(self.path, &error);
        let schema = self.metadata.file_metadata().schema_descr();
        let leaf = schema.column(index);
        let pages = Pages::new(&self.file, group.column(index), leaf.max_def_level());
        let pages = PlainPages {
            pages: pages.map_err(error)?,
            value_bytes: if leaf.max_def_level() > 0 && leaf.max_rep_level() == 0 {
                0 // nulls take no bytes, but there is at most one per row
            } else {
                4 // an f32, or the length of a text
            },
            rows,
        };
        let is_list = leaf.max_rep_level() > 0;
        let reader = typed(get_column_reader(leaf, Box::new(pages)));
        let mut reader = reader
            .ok_or_else(|| self.finding(format!("column {} of another type", LEAVES[index])))?;
        let (mut definition, mut repetition, mut values) = (Vec::new(), Vec::new(), Vec::new());
        let mut read = 0;
        while read <= rows {
            let levels = (Some(&mut definition), Some(&mut repetition));
            let (records, ..) = reader
                .read_records(rows - read + 1, levels.0, levels.1, &mut values)
                .map_err(error)?;
            if records == 0 {
                break;
            }
            read += records;
        }
        if read != rows {
            let name = LEAVES[index];
            return Err(self.finding(format!("{read} cells of column {name} in {rows} rows")));
        }
        Ok((values, if is_list { repetition } else { definition }))
    }

    /// Returns the common length of the lists that start where a level is 0.
    fn length_of_lists(&self, starts: &[i16], values: usize, rows: usize) -> Result<usize> {
        let width = values.checked_div(rows).unwrap_or(0);
        let even = starts.len() == values
            && values == width * rows
            && starts
                .iter()
                .enumerate()
                .all(|(value, &level)| (level == 0) == (value % width == 0));
        if !even {
            return Err(self.finding("vectors of different lengths".to_owned()));
        }
        Ok(width)
    }

    fn names(
        &self,
        shown: &[ByteArray],
        encoded: &[ByteArray],
        is_encoded: impl Iterator<Item = bool>,
        rows: usize,
    ) -> Result<Vec<VectorName>> {
        let text = |bytes: &ByteArray| {
            let text = std::str::from_utf8(bytes.data());
            text.map(str::to_owned)
                .map_err(|_| self.finding("a name that is not UTF-8".to_owned()))
        };
        let mut encoded = encoded.iter();
        let names: Vec<VectorName> = shown
            .iter()
            .zip(is_encoded)
            .map(|(name, is_encoded)| {
                let encoded = if is_encoded { encoded.next() } else { None };
                Ok((text(name)?, encoded.map(text).transpose()?))
            })
            .collect::<Result<_>>()?;
        if names.len() != rows {
            return Err(self.finding(format!("{} names in {rows} rows", names.len())));
        }
        Ok(names)
    }

    fn finding(&self, finding: String) -> DataError {
        DataError::Parquet {
            path: self.path.to_owned(),
            finding,
        }
    }
}

fn byte_arrays(reader: ColumnReader) -> Option<ColumnReaderImpl<ByteArrayType>> {
    match reader {
        ColumnReader::ByteArrayColumnReader(reader) => Some(reader),
        _ => None,
    }
}

fn floats(reader: ColumnReader) -> Option<ColumnReaderImpl<FloatType>> {
    match reader {
        ColumnReader::FloatColumnReader(reader) => Some(reader),
        _ => None,
    }
}

/// Pages of plain values only, none of which claims more values than it has bytes for. Other
/// encodings repeat a value any number of times in a few bytes.
struct PlainPages {
    pages: Pages,
    /// The bytes that every value takes at least, nulls included; 0 if nulls take none.
    value_bytes: usize,
    rows: usize,
}

impl PlainPages {
    fn require_plain(&self, page: Page) -> ParquetResult<Page> {
        let fits = |values: u32, bytes: usize| match self.value_bytes {
            0 => values as usize <= self.rows,
            each => values as usize <= bytes / each,
        };
        let is_plain = match &page {
            Page::DataPage {
                buf,
                num_values,
                encoding,
                ..
            }
            | Page::DataPageV2 {
                buf,
                num_values,
                encoding,
                ..
            } => *encoding == Encoding::PLAIN && fits(*num_values, buf.len()),
            Page::DictionaryPage { .. } => false,
        };
        if is_plain {
            return Ok(page);
        }
        let finding = "values that are not stored plainly, as `perceiver embed` stores them";
        Err(ParquetError::General(finding.to_owned()))
    }
}

impl PageReader for PlainPages {
    fn get_next_page(&mut self) -> ParquetResult<Option<Page>> {
        let page = self.pages.get_next_page()?;
        page.map(|page| self.require_plain(page)).transpose()
    }

    fn peek_next_page(&mut self) -> ParquetResult<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> ParquetResult<()> {
        self.pages.skip_next_page()
    }
}

impl Iterator for PlainPages {
    type Item = ParquetResult<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, vectors: &[(&str, [f32; 3])]) {
        let mut writer = NamedVectorWriter::new(File::create(path).unwrap(), 3).unwrap();
        for (name, values) in vectors {
            let encoded = name.contains('\u{fffd}').then(|| "%FF".to_owned());
            writer
                .append(&[((*name).to_owned(), encoded)], values)
                .unwrap();
        }
        writer.finish("key", "{}").unwrap();
    }

    const VECTORS: [(&str, [f32; 3]); 3] = [
        ("a, \"b\"\n.png", [0.5, -1.0, f32::MIN_POSITIVE]),
        ("\u{fffd}", [0.0, 2.0, 3.0]),
        ("", [7.0, 8.0, 9.0]),
    ];

    #[test]
    fn vectors_round_trip_with_their_names() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vectors.parquet");
        write(&path, &VECTORS);
        let file = read_named_vectors(&path, "key").unwrap();
        let names: Vec<&str> = file.names.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, VECTORS.map(|(name, _)| name));
        assert_eq!(file.names[1].1.as_deref(), Some("%FF"));
        assert_eq!(file.names[2].1, None);
        assert_eq!(file.values, VECTORS.map(|(_, values)| values).concat());
        assert_eq!((file.width, file.metadata.as_deref()), (3, Some("{}")));
        assert_eq!(read_named_vectors(&path, "other").unwrap().metadata, None);
        write(&path, &[]);
        assert_eq!(read_named_vectors(&path, "key").unwrap().width, 0);
    }

    #[test]
    fn flipped_bytes_and_truncation_do_not_panic() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vectors.parquet");
        write(&path, &VECTORS);
        let bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0xff;
            std::fs::write(&path, &flipped).unwrap();
            let _ = read_named_vectors(&path, "key"); // a changed value cannot be detected
            std::fs::write(&path, &bytes[..at]).unwrap();
            let error = read_named_vectors(&path, "key").unwrap_err();
            assert!(matches!(error, DataError::Parquet { .. }), "{error}");
        }
    }

    #[test]
    fn other_columns_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("images.parquet");
        let image = crate::Image::new(1, 1, vec![0; 3]).unwrap();
        let dataset = crate::Dataset::new("d", vec![image], vec![0], vec!["a".into()]).unwrap();
        crate::write_parquet(&path, &dataset).unwrap();
        let error = read_named_vectors(&path, "key").unwrap_err().to_string();
        assert!(error.contains("embedding.list.element"), "{error}");
        assert!(error.contains("label"), "{error}");
    }
}
