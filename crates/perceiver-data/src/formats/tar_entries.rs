//! Iterates over the entries of an untrusted tar archive, with bounded headers.
//!
//! The `tar` crate reads everything that belongs to an entry's header before it returns the entry:
//! GNU long names, PAX records, the map of a sparse file. Each may claim any length, and in a
//! compressed archive gigabytes of them take a few megabytes.

use std::cell::Cell;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::rc::Rc;

use tar::{Archive, Entries, Entry};

/// The largest size of an entry's headers, including name and attributes, 1 MiB: paths have at most
/// 4 KiB on any system, extended attributes 64 KiB each.
pub const MAX_TAR_HEADER_BYTES: u64 = 1 << 20;

/// A tar archive in `reader`, which is seekable or a [`Forward`].
///
/// ```
/// use perceiver_data::{Forward, TarArchive};
///
/// let mut builder = tar::Builder::new(Vec::new());
/// let mut header = tar::Header::new_gnu();
/// header.set_size(3);
/// builder.append_data(&mut header, "cat.txt", &b"cat"[..])?;
/// let bytes = builder.into_inner()?;
///
/// let mut archive = TarArchive::new(Forward::new(&bytes[..]));
/// let mut entries = archive.entries()?;
/// let entry = entries.next().expect("one entry")?;
/// assert_eq!((&*entry.path_bytes(), entry.size()), (&b"cat.txt"[..], 3));
/// assert!(entries.next().is_none());
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct TarArchive<R: Read + Seek> {
    archive: Archive<LimitedReader<R>>,
    left: Rc<Cell<u64>>,
}

impl<R: Read + Seek> TarArchive<R> {
    /// Creates an archive that begins at the position of `reader`.
    pub fn new(reader: R) -> Self {
        let left = Rc::new(Cell::new(0));
        let archive = Archive::new(LimitedReader {
            reader,
            left: Rc::clone(&left),
        });
        Self { archive, left }
    }

    /// Returns an iterator over the entries.
    ///
    /// # Errors
    /// When called twice. An entry whose headers exceed [`MAX_TAR_HEADER_BYTES`] is an error of
    /// kind [`ErrorKind::FileTooLarge`] and ends the iteration.
    pub fn entries(&mut self) -> io::Result<TarEntries<'_, R>> {
        Ok(TarEntries {
            entries: self.archive.entries_with_seek()?,
            left: Rc::clone(&self.left),
        })
    }
}

/// An iterator over the entries of a [`TarArchive`]; each must be read before the next is
/// requested.
pub struct TarEntries<'a, R: Read + Seek> {
    entries: Entries<'a, LimitedReader<R>>,
    left: Rc<Cell<u64>>,
}

impl<'a, R: Read + Seek> Iterator for TarEntries<'a, R> {
    type Item = io::Result<Entry<'a, LimitedReader<R>>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left.set(MAX_TAR_HEADER_BYTES);
        let entry = self.entries.next();
        self.left.set(u64::MAX);
        entry
    }
}

/// A reader with a limit on the bytes read. Skipped bytes do not count.
pub struct LimitedReader<R> {
    reader: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for LimitedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        let left = self.left.get().checked_sub(count as u64).ok_or_else(|| {
            let limit = MAX_TAR_HEADER_BYTES >> 20;
            let read_entries = format!("headers of more than {limit} MiB before one entry");
            io::Error::new(ErrorKind::FileTooLarge, read_entries)
        })?;
        self.left.set(left);
        Ok(count)
    }
}

impl<R: Seek> Seek for LimitedReader<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.reader.seek(to)
    }
}

/// A forward-only seekable wrapper of a reader, such as a decompressor.
#[derive(Debug)]
pub struct Forward<R> {
    reader: R,
    at: u64,
}

impl<R: Read> Forward<R> {
    /// Wraps a reader at its current position.
    pub fn new(reader: R) -> Self {
        Self { reader, at: 0 }
    }
}

impl<R: Read> Read for Forward<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl<R: Read> Seek for Forward<R> {
    /// Skips forward.
    ///
    /// # Errors
    /// When there are too few bytes, and for any other kind of seek.
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let SeekFrom::Current(distance) = to else {
            return Err(ErrorKind::Unsupported.into());
        };
        let distance = u64::try_from(distance).map_err(|_| ErrorKind::Unsupported)?;
        let skipped = io::copy(&mut self.by_ref().take(distance), &mut io::sink())?;
        if skipped < distance {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use tar::{Builder, EntryType, Header};

    use super::*;

    /// Builds a header of this type that claims `size` bytes.
    fn header(kind: EntryType, size: u64) -> Vec<u8> {
        let mut header = Header::new_gnu();
        header.set_path("././@LongLink").unwrap();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    /// The types whose content the `tar` crate reads as part of the next entry's header.
    const EXTENSIONS: [EntryType; 3] = [
        EntryType::GNULongName,
        EntryType::GNULongLink,
        EntryType::XHeader,
    ];

    /// Returns the result of reading the entries, and the number of bytes read.
    fn read_entries(archive: impl Read) -> (io::Result<usize>, u64) {
        let mut counted = Counted(archive, 0);
        let result = TarArchive::new(Forward::new(&mut counted))
            .entries()
            .unwrap()
            .try_fold(0, |count, entry| entry.map(|_| count + 1));
        (result, counted.1)
    }

    struct Counted<R>(R, u64);

    impl<R: Read> Read for Counted<R> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.0.read(buffer)?;
            self.1 += count as u64;
            Ok(count)
        }
    }

    #[test]
    fn unbounded_long_names_and_pax_records_are_rejected_at_the_limit() {
        for kind in EXTENSIONS {
            let endless = Cursor::new(header(kind, 3_000_000_000)).chain(io::repeat(b'a'));
            let (result, read) = read_entries(endless);
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::FileTooLarge, "{kind:?}: {error}");
            assert!(read < 2 * MAX_TAR_HEADER_BYTES, "{kind:?}: {read} bytes");
        }
    }

    #[test]
    fn truncated_long_names_are_rejected() {
        for kind in EXTENSIONS {
            let short = Cursor::new(header(kind, 1 << 30)).chain(&b"abc"[..]);
            assert!(read_entries(short).0.is_err(), "{kind:?}");
        }
    }

    #[test]
    fn unbounded_sparse_maps_are_rejected() {
        let mut sparse = Header::new_gnu();
        sparse.set_entry_type(EntryType::GNUSparse);
        sparse.set_size(0);
        let gnu = sparse.as_gnu_mut().unwrap();
        gnu.isextended = [1];
        sparse.set_cksum();
        let mut map = [0; 512];
        map[504] = 1; // another one follows
        let endless = Cursor::new(sparse.as_bytes().to_vec()).chain(Repeated(map));
        let error = read_entries(endless).0.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge, "{error}");
    }

    /// An endless repetition of a block.
    struct Repeated([u8; 512]);

    impl Read for Repeated {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = buffer.len().min(512);
            buffer[..count].copy_from_slice(&self.0[..count]);
            Ok(count)
        }
    }

    #[test]
    fn long_names_and_large_contents_are_read() {
        let mut builder = Builder::new(Vec::new());
        let long = "deep/".repeat(800) + "cat.png";
        let content = vec![7; 3 << 20]; // more than the header limit
        builder
            .append_pax_extensions([("comment", "x".repeat(100_000).as_bytes())])
            .unwrap();
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        for _ in 0..2 {
            builder
                .append_data(&mut header, &long, &content[..])
                .unwrap();
        }
        let bytes = builder.into_inner().unwrap();
        let mut archive = TarArchive::new(Forward::new(&bytes[..]));
        let mut entries = archive.entries().unwrap();
        let mut entry = entries.next().unwrap().unwrap();
        assert_eq!(&*entry.path_bytes(), long.as_bytes());
        let mut read = Vec::new();
        entry.read_to_end(&mut read).unwrap();
        assert!(read == content);
        // Only the headers of the second are read.
        let entry = entries.next().unwrap().unwrap();
        assert_eq!(entry.size(), 3 << 20);
        assert!(entries.next().is_none());
        let mut seekable = TarArchive::new(Cursor::new(&bytes));
        assert_eq!(seekable.entries().unwrap().count(), 2);
    }
}
