//! Tar shards in WebDataset's layout: index and random access to images.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use perceiver_files::{decode_text, open_regular};

use crate::decode::MAX_ENCODED_BYTES;
use crate::error::{DataError, Result};
use crate::formats::shards::compression;
use crate::formats::shards::unpaired_files::{UnpairedFiles, is_label_extension};
use crate::formats::tar_entries::TarArchive;
use crate::image_formats::is_image_extension;

/// The block size of tar files.
const BLOCK: u64 = 512;

/// The largest size of a `.cls` file in bytes; it contains a number.
const MAX_LABEL: u64 = 32;

/// The byte range of an image in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    offset: u64,
    len: u32,
}

/// The index of a file, read without its images.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Index {
    /// The location of every image.
    pub(crate) spans: Vec<Span>,
    /// The label of every image.
    pub(crate) labels: Vec<i64>,
    pub(crate) unpaired: UnpairedFiles,
}

/// Indexes locations and labels of the images. Reads only headers and labels.
pub(crate) fn index(path: &Path) -> Result<Index> {
    Ok(samples(path)?.index)
}

/// Returns the names of the images in the file, in the order of [`index`].
pub(crate) fn image_names(path: &Path) -> Result<Vec<String>> {
    Ok(samples(path)?.names)
}

fn samples(path: &Path) -> Result<TarSamples<'_>> {
    let failed = |source| match source {
        source if is_disk_error(&source) => io_error("read", path, source),
        source => shard(path, "a complete tar file", shown(&source)),
    };
    let opened = open_regular(path);
    let (mut file, size) = opened.map_err(|source| io_error("read", path, source))?;
    let mut start = Vec::new();
    let begun = file.by_ref().take(BLOCK).read_to_end(&mut start);
    begun.and_then(|_| file.rewind()).map_err(failed)?;
    if let Some(compression) = compression::by_content(&start) {
        return Err(shard(
            path,
            compression::EXPECTED,
            compression::describe(compression),
        ));
    }
    let mut samples = TarSamples::new(path);
    let mut end = 0;
    let mut archive = TarArchive::new(file);
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        let (offset, len) = (entry.raw_file_position(), entry.size());
        end = len
            .checked_next_multiple_of(BLOCK)
            .and_then(|len| len.checked_add(offset))
            .unwrap_or(u64::MAX);
        if end > size {
            break; // reported below
        }
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        samples.add(&name, offset, len, &mut entry)?;
    }
    // The archive ends with two empty blocks; without them the file may have been truncated between
    // two members.
    if end.checked_add(BLOCK).is_none_or(|end| end > size) {
        let found = format!("one truncated after {size} bytes");
        return Err(shard(path, "a complete tar file", found));
    }
    samples.finish()
}

/// Reads the bytes of ascending spans.
pub(crate) fn read(path: &Path, spans: impl Iterator<Item = Span>) -> Result<Vec<Vec<u8>>> {
    let failed = |source| io_error("read", path, source);
    let (mut file, _) = open_regular(path).map_err(failed)?;
    let read = |Span { offset, len }: Span| -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len as usize];
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    };
    spans.map(read).collect::<io::Result<_>>().map_err(failed)
}

/// A builder of samples from consecutive tar entries.
struct TarSamples<'a> {
    path: &'a Path,
    index: Index,
    names: Vec<String>,
    /// The current sample.
    open: Sample,
}

#[derive(Default)]
struct Sample {
    key: String,
    /// The span of its image, and its name.
    image: Option<(Span, String)>,
    label: Option<i64>,
    /// Files that would be parts of samples if their names had only one dot, with the class if it
    /// is a label.
    others: Vec<(String, Option<i64>)>,
}

impl<'a> TarSamples<'a> {
    fn new(path: &'a Path) -> Self {
        Self {
            path,
            index: Index::default(),
            names: Vec::new(),
            open: Sample::default(),
        }
    }

    /// Adds the next file of the archive.
    fn add(&mut self, name: &str, offset: u64, len: u64, content: &mut impl Read) -> Result<()> {
        let (folder, file) = match name.rfind('/') {
            Some(slash) => name.split_at(slash + 1),
            None => ("", name),
        };
        let Some((stem, extension)) = file.split_once('.').filter(|(stem, _)| !stem.is_empty())
        else {
            return Ok(());
        };
        let key = format!("{folder}{stem}");
        if key != self.open.key {
            self.close()?;
            self.open.key = key;
        }
        let twice = || {
            shard(
                self.path,
                "one image and one label per sample",
                format!("a second one, {name}"),
            )
        };
        if is_image_extension(extension) {
            if len > MAX_ENCODED_BYTES {
                let expected = format!("images of at most {} MiB", MAX_ENCODED_BYTES >> 20);
                let found = format!("{len} bytes in {name}");
                return Err(shard(self.path, &expected, found));
            }
            let len = len as u32; // lossless: the limit is below 4 GiB
            let span = Span { offset, len };
            if self.open.image.replace((span, name.to_owned())).is_some() {
                return Err(twice());
            }
        } else if is_label_extension(extension) {
            let label = self.label(name, content)?;
            if self.open.label.replace(label).is_some() {
                return Err(twice());
            }
        } else if UnpairedFiles::concerns(extension) {
            let is_label = !is_image_extension(extension.rsplit('.').next().unwrap_or_default());
            let class = is_label.then(|| self.label(name, content).ok()).flatten();
            self.open.others.push((name.to_owned(), class));
        }
        Ok(())
    }

    fn label(&self, name: &str, content: &mut impl Read) -> Result<i64> {
        let mut bytes = Vec::new();
        let read = content.take(MAX_LABEL).read_to_end(&mut bytes);
        read.map_err(|source| io_error("read", self.path, source))?;
        let text = decode_text(bytes.clone()).unwrap_or_default();
        text.trim().parse().map_err(|_| {
            let expected = format!("a class index in {name}");
            let found = format!("\"{}\"", bytes.escape_ascii());
            shard(self.path, &expected, found)
        })
    }

    /// Finishes the current sample and keeps it if it is complete.
    fn close(&mut self) -> Result<()> {
        let Sample {
            key,
            image,
            label,
            others,
        } = std::mem::take(&mut self.open);
        match (image, label) {
            (Some((span, name)), Some(label)) => {
                self.index.spans.push(span);
                self.index.labels.push(label);
                self.names.push(name);
                Ok(())
            }
            (None, None) => {
                for (file, class) in others {
                    self.index.unpaired.add(file, class);
                }
                Ok(())
            }
            (Some(_), None) => {
                let expected = format!("{key}.cls next to the image of that name");
                Err(shard(self.path, &expected, "none".to_owned()))
            }
            (None, Some(_)) => {
                let expected = format!("an image next to {key}.cls");
                Err(shard(self.path, &expected, "none".to_owned()))
            }
        }
    }

    fn finish(mut self) -> Result<Self> {
        self.close()?;
        Ok(self)
    }
}

fn shard(path: &Path, expected: &str, found: String) -> DataError {
    DataError::Shard {
        path: path.to_owned(),
        expected: expected.to_owned(),
        found,
    }
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> DataError {
    DataError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Formats an error of the tar library, without non-text bytes that it may quote from a header.
fn shown(error: &io::Error) -> String {
    const MOST: usize = 200;
    let text = error.to_string();
    text.chars()
        .take(MOST)
        .flat_map(char::escape_debug)
        .collect()
}

/// Whether the disk is at fault, not its content.
fn is_disk_error(error: &io::Error) -> bool {
    error.raw_os_error().is_some()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use tar::{Builder, Header};

    use super::{UnpairedFiles, index, read};

    type File<'a> = (&'a str, &'a [u8]);

    /// Creates a tar file of these files.
    fn tar(files: &[File<'_>]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.tar");
        let mut tar = Builder::new(fs::File::create(&path).unwrap());
        for (name, content) in files {
            let mut header = Header::new_gnu();
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, name, *content).unwrap();
        }
        tar.into_inner().unwrap();
        (dir, path)
    }

    fn index_error(files: &[File<'_>]) -> String {
        let (_dir, path) = tar(files);
        let error = index(&path).unwrap_err().to_string();
        let (_, finding) = error.split_once("x.tar: ").unwrap();
        finding.to_owned()
    }

    #[test]
    fn files_are_grouped_into_samples_by_key() {
        let long = format!("{}/c.jpeg", "deep/".repeat(40));
        let long_label = long.replace("jpeg", "cls");
        let (_dir, path) = tar(&[
            ("set/a.png", b"first"),
            ("set/a.json", b"{}"),
            ("set/a.cls", b"7\n"),
            ("README", b"text"),
            ("._b.png", b"of another system"),
            ("b.cls", b"0"),
            ("b.seg.png", b"not the picture"),
            ("b.WEBP", b""),
            (&long, b"third"),
            (&long_label, b" 41 "),
        ]);
        let index = index(&path).unwrap();
        assert_eq!(index.labels, [7, 0, 41]);
        assert_eq!(index.unpaired, UnpairedFiles::default(), "of a sample");
        let bytes = read(&path, index.spans.into_iter()).unwrap();
        assert_eq!(bytes, [b"first".to_vec(), Vec::new(), b"third".to_vec()]);
    }

    #[test]
    fn errors_name_incomplete_samples() {
        let png: &[u8] = b"png";
        let cases: [(&[File<'_>], &str); 6] = [
            (
                &[("a.png", png), ("b.png", png), ("b.cls", b"1")],
                "expected a.cls next to the image of that name, found none",
            ),
            (
                &[("a.png", png)],
                "expected a.cls next to the image of that name, found none",
            ),
            (
                &[("a.cls", b"1")],
                "expected an image next to a.cls, found none",
            ),
            (
                &[("a.png", png), ("a.jpg", png), ("a.cls", b"1")],
                "expected one image and one label per sample, found a second one, a.jpg",
            ),
            (
                &[("a.png", png), ("a.cls", b"cat")],
                "expected a class index in a.cls, found \"cat\"",
            ),
            (
                &[("a.png", png), ("a.cls", &[0xff; 40])],
                &format!(
                    "expected a class index in a.cls, found \"{}\"",
                    "\\xff".repeat(32)
                ),
            ),
        ];
        for (files, expected) in cases {
            assert_eq!(index_error(files), expected);
        }
    }

    #[test]
    fn compressed_files_are_rejected_and_garbage_is_escaped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.tar");
        let message = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            index(&path).unwrap_err().to_string()
        };
        let gzip = message(&[0x1F, 0x8B, 8, 0, 0x1B, b'[', b'2', b'J']);
        assert!(gzip.contains("found one compressed with gzip"), "{gzip}");
        let garbage = message(&[0x1B; 1024]);
        assert!(
            garbage.contains("expected a complete tar file"),
            "{garbage}"
        );
        assert!(!garbage.contains(char::is_control), "{garbage:?}");
    }

    #[test]
    fn truncated_files_are_rejected_at_any_length() {
        let (_dir, path) = tar(&[("a.png", &[1; 700]), ("a.cls", b"1")]);
        let whole = fs::read(&path).unwrap();
        let samples = index(&path).unwrap();
        for len in 0..whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            match index(&path) {
                Err(error) => {
                    let error = error.to_string();
                    assert!(error.contains("expected a complete tar file"), "{error}");
                }
                // One of the two empty blocks at the end suffices.
                Ok(actual) => {
                    assert!(len >= whole.len() - 512, "{len} bytes");
                    assert_eq!(actual, samples);
                }
            }
        }
    }
}
