//! Reads the pages of a Parquet column, each within a memory limit.
//!
//! The `parquet` crate's own reader allocates what a page's header claims, up to 2 GiB, and some of
//! its decompressors are unbounded. Here both are limited to [`MAX_PAGE_BYTES`], and counts to what
//! the bytes can hold.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use parquet::basic::{Compression, Encoding};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ColumnChunkMetaData;

use crate::formats::parquet::decompress::decompress;
use crate::formats::parquet::delta::claims_at_most;
use crate::formats::parquet::page_header::PageHeader;

/// The largest page in bytes, in the file and decompressed, 1 GiB: Arrow puts 1,024 images into
/// one.
pub(crate) const MAX_PAGE_BYTES: usize = 1 << 30;

/// An iterator over the pages of a column.
pub(crate) struct Pages {
    file: BufReader<File>,
    at: u64,
    end: u64,
    compression: Compression,
    /// Bits per definition level.
    level_bits: u32,
    /// The header of the next page and the offset of its data.
    next: Option<(PageHeader, u64)>,
    /// A skipped dictionary that may still be needed.
    deferred: Option<(PageHeader, u64)>,
}

impl Pages {
    /// Opens a column of `file` whose non-null cells have level `max_definition`.
    ///
    /// # Errors
    /// When the column lies outside the file.
    pub(crate) fn new(
        file: &File,
        column: &ColumnChunkMetaData,
        max_definition: i16,
    ) -> Result<Self> {
        let dictionary = column.dictionary_page_offset();
        let at = u64::try_from(dictionary.unwrap_or(column.data_page_offset()))?;
        let length = u64::try_from(column.compressed_size())?;
        let size = file.metadata()?.len();
        let end = at.checked_add(length).filter(|&end| end <= size);
        Ok(Self {
            file: BufReader::new(file.try_clone()?),
            at,
            end: end.ok_or_else(|| damaged("a column beyond the end of the file".to_owned()))?,
            compression: column.compression(),
            level_bits: 16 - max_definition.leading_zeros(),
            next: None,
            deferred: None,
        })
    }

    /// Returns the header of the next page without consuming it.
    fn peek(&mut self) -> Result<Option<&PageHeader>> {
        while self.next.is_none() && self.at < self.end {
            self.file.seek(SeekFrom::Start(self.at))?;
            let (header, length) = PageHeader::read(&mut self.file, self.end - self.at)?;
            let start = self.at + length;
            let bytes = held(header.compressed_size, "compressed bytes")? as u64;
            held(header.size, "bytes")?;
            if bytes > self.end - start {
                let finding = format!("a truncated page of {bytes} compressed bytes");
                return Err(damaged(finding));
            }
            self.at = start + bytes;
            if header.kind != PageHeader::INDEX {
                self.next = Some((header, start));
            }
        }
        Ok(self.next.as_ref().map(|(header, _)| header))
    }

    fn read(&mut self, header: &PageHeader, start: u64) -> Result<Page> {
        let mut compressed = vec![0; held(header.compressed_size, "compressed bytes")?];
        self.file.seek(SeekFrom::Start(start))?;
        self.file.read_exact(&mut compressed)?;
        let page = Body { header, compressed };
        match header.kind {
            PageHeader::DATA => self.data(page),
            PageHeader::DATA_V2 => self.data_v2(page),
            PageHeader::DICTIONARY => self.dictionary(page),
            kind => Err(damaged(format!("a page of unknown kind {kind}"))),
        }
    }

    fn data(&self, page: Body<'_>) -> Result<Page> {
        let (values, encoding) = (page.count(1)?, page.encoding(2)?);
        let definition = page.encoding(3)?;
        let repetition = page.encoding(4)?;
        let bytes = page.decompressed(self.compression, 0)?;
        let levels = match (self.level_bits, definition) {
            (0, _) => Some(0),
            (_, Encoding::RLE) => bytes
                .first_chunk()
                .and_then(|length| usize::try_from(u32::from_le_bytes(*length)).ok())
                .and_then(|length| length.checked_add(4)),
            (bits, _) => Some((values as usize * bits as usize).div_ceil(8)),
        };
        require_counts(encoding, levels.and_then(|at| bytes.get(at..)), values)?;
        Ok(Page::DataPage {
            buf: bytes.into(),
            num_values: values,
            encoding,
            def_level_encoding: definition,
            rep_level_encoding: repetition,
            statistics: None,
        })
    }

    fn data_v2(&self, page: Body<'_>) -> Result<Page> {
        let (values, encoding) = (page.count(1)?, page.encoding(4)?);
        let (nulls, rows) = (page.count(2)?, page.count(3)?);
        let [definition, repetition] = [page.count(5)?, page.count(6)?];
        let is_compressed = page.header.fields.get(&7) != Some(&0);
        let compression = if is_compressed {
            self.compression
        } else {
            Compression::UNCOMPRESSED
        };
        let levels = definition as usize + repetition as usize;
        let bytes = page.decompressed(compression, levels)?;
        require_counts(encoding, bytes.get(levels..), values)?;
        Ok(Page::DataPageV2 {
            buf: bytes.into(),
            num_values: values,
            encoding,
            num_nulls: nulls,
            num_rows: rows,
            def_levels_byte_len: definition,
            rep_levels_byte_len: repetition,
            is_compressed,
            statistics: None,
        })
    }

    fn dictionary(&self, page: Body<'_>) -> Result<Page> {
        let (values, encoding) = (page.count(1)?, page.encoding(2)?);
        let is_sorted = page.header.fields.get(&3) == Some(&1);
        let bytes = page.decompressed(self.compression, 0)?;
        // A number has at least four bytes, and so has the length of an image.
        if values as usize > bytes.len() / 4 {
            let finding = format!("a dictionary of {values} values in {} bytes", bytes.len());
            return Err(damaged(finding));
        }
        Ok(Page::DictionaryPage {
            buf: bytes.into(),
            num_values: values,
            encoding,
            is_sorted,
        })
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        self.peek()?;
        match self.next.take() {
            Some((header, start)) => self.read(&header, start).map(Some),
            None => Ok(None),
        }
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        let Some(header) = self.peek()? else {
            return Ok(None);
        };
        let count = |id: i16| {
            let count = header.fields.get(&id).copied().unwrap_or_default();
            usize::try_from(count).map_err(ParquetError::from)
        };
        let (rows, levels) = match header.kind {
            PageHeader::DATA => (None, Some(count(1)?)),
            PageHeader::DATA_V2 => (Some(count(3)?), Some(count(1)?)),
            _ => (None, None),
        };
        Ok(Some(PageMetadata {
            num_rows: rows,
            num_levels: levels,
            is_dict: header.kind == PageHeader::DICTIONARY,
        }))
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.peek()?;
        let skipped = self.next.take();
        let is_dictionary = |(header, _): &(PageHeader, _)| header.kind == PageHeader::DICTIONARY;
        if skipped.as_ref().is_some_and(is_dictionary) {
            self.deferred = skipped;
        }
        Ok(())
    }

    fn supports_deferred_dictionary(&self) -> bool {
        true
    }

    fn take_deferred_dictionary(&mut self) -> Result<Option<Page>> {
        match self.deferred.take() {
            Some((header, start)) => self.read(&header, start).map(Some),
            None => Ok(None),
        }
    }
}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

/// The raw data of a page.
struct Body<'a> {
    header: &'a PageHeader,
    compressed: Vec<u8>,
}

impl Body<'_> {
    fn count(&self, id: i16) -> Result<u32> {
        let count = self.header.fields.get(&id).copied();
        let count = count.ok_or_else(|| damaged("a page without a count".to_owned()))?;
        let count = i32::try_from(count).ok().map(u32::try_from);
        count
            .and_then(std::result::Result::ok)
            .ok_or_else(|| damaged("a page with a negative count".to_owned()))
    }

    fn encoding(&self, id: i16) -> Result<Encoding> {
        let number = self.header.fields.get(&id).copied().unwrap_or(-1);
        #[expect(deprecated, reason = "files have it all the same")]
        Ok(match number {
            0 => Encoding::PLAIN,
            2 => Encoding::PLAIN_DICTIONARY,
            3 => Encoding::RLE,
            4 => Encoding::BIT_PACKED,
            5 => Encoding::DELTA_BINARY_PACKED,
            6 => Encoding::DELTA_LENGTH_BYTE_ARRAY,
            7 => Encoding::DELTA_BYTE_ARRAY,
            8 => Encoding::RLE_DICTIONARY,
            9 => Encoding::BYTE_STREAM_SPLIT,
            other => return Err(damaged(format!("values in unknown encoding {other}"))),
        })
    }

    /// Decompresses the page, whose first `plain` bytes are not compressed.
    fn decompressed(self, compression: Compression, plain: usize) -> Result<Vec<u8>> {
        let size = held(self.header.size, "bytes")?;
        if plain > size.min(self.compressed.len()) {
            return Err(damaged("levels longer than their page".to_owned()));
        }
        if compression == Compression::UNCOMPRESSED {
            return Ok(self.compressed);
        }
        if size == plain {
            return Ok(self.compressed[..plain].to_vec()); // null cells only
        }
        let (levels, rest) = self.compressed.split_at(plain);
        let bytes = decompress(compression, rest, size - plain)?;
        match plain {
            0 => Ok(bytes),
            _ => Ok([levels, &bytes].concat()),
        }
    }
}

/// Checks that a delta-encoded page has no more lengths than its number of values.
fn require_counts(encoding: Encoding, data: Option<&[u8]>, values: u32) -> Result<()> {
    let streams = match encoding {
        Encoding::DELTA_LENGTH_BYTE_ARRAY => 1,
        Encoding::DELTA_BYTE_ARRAY => 2,
        _ => return Ok(()),
    };
    let fits = |data| claims_at_most(data, streams, u64::from(values));
    if values <= MAX_DELTAS && data.is_some_and(fits) {
        return Ok(());
    }
    Err(damaged("more lengths than a page has values".to_owned()))
}

/// The largest number of values of a delta-encoded page, each of which takes four bytes of memory.
const MAX_DELTAS: u32 = 1 << 24;

/// Checks a size that a header claims.
fn held(size: i64, what: &str) -> Result<usize> {
    match usize::try_from(size) {
        Ok(size) if size <= MAX_PAGE_BYTES => Ok(size),
        _ => Err(damaged(format!(
            "a page of {size} {what}, expected at most {} MiB",
            MAX_PAGE_BYTES >> 20
        ))),
    }
}

fn damaged(finding: String) -> ParquetError {
    ParquetError::External(Box::new(io::Error::other(finding)))
}
