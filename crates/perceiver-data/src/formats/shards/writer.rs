//! Writes tar shards in WebDataset's layout.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use tar::{Builder, Header};

use crate::dataset::Split;
use crate::error::{DataError, Result};
use crate::formats::shards::folder::CLASSES;

/// A writer of the images of a split to consecutive tar files.
pub struct ShardWriter {
    folder: PathBuf,
    part: &'static str,
    per_shard: usize,
    images: usize,
    open: Option<(PathBuf, Builder<BufWriter<File>>)>,
}

impl ShardWriter {
    /// Creates a writer of `train-00000.tar` (or `test-` and so on) in `folder`, with `per_shard`
    /// images per file.
    pub fn new(folder: impl Into<PathBuf>, split: Split, per_shard: usize) -> Self {
        Self {
            folder: folder.into(),
            part: match split {
                Split::Train => "train",
                Split::Test => "test",
                Split::Validation => "validation",
            },
            per_shard: per_shard.max(1),
            images: 0,
            open: None,
        }
    }

    /// Writes the class names to `classes.txt` in `folder`.
    ///
    /// # Errors
    /// [`DataError::Inconsistent`] for a name of several lines, [`DataError::Io`].
    pub fn write_classes(folder: &Path, classes: &[String]) -> Result<()> {
        let path = folder.join(CLASSES);
        if let Some(name) = classes
            .iter()
            .find(|name| name.trim() != **name || name.contains('\n'))
        {
            return Err(DataError::Shard {
                path,
                expected: "single-line names without leading or trailing spaces".to_owned(),
                found: format!("the class {name:?}"),
            });
        }
        let text: String = classes.iter().flat_map(|name| [name, "\n"]).collect();
        fs::write(&path, text).map_err(|source| io_error("write", &path, source))
    }

    /// Adds an image, given its encoded bytes and file extension.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn add(&mut self, encoded: &[u8], extension: &str, label: u32) -> Result<()> {
        if self.images.is_multiple_of(self.per_shard) {
            self.close()?;
            let shard = self.images / self.per_shard;
            let path = self.folder.join(format!("{}-{shard:05}.tar", self.part));
            let file =
                File::create_new(&path).map_err(|source| io_error("create", &path, source))?;
            self.open = Some((path, Builder::new(BufWriter::new(file))));
        }
        let key = format!("{:08}", self.images);
        self.images += 1;
        if let Some((path, tar)) = &mut self.open {
            let written = append(tar, &format!("{key}.{extension}"), encoded)
                .and_then(|()| append(tar, &format!("{key}.cls"), label.to_string().as_bytes()));
            written.map_err(|source| io_error("write", path, source))?;
        }
        Ok(())
    }

    /// Finishes the last file and returns the number of images written.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn finish(mut self) -> Result<usize> {
        self.close()?;
        Ok(self.images)
    }

    fn close(&mut self) -> Result<()> {
        let Some((path, tar)) = self.open.take() else {
            return Ok(());
        };
        let close = || {
            let file = tar
                .into_inner()?
                .into_inner()
                .map_err(io::IntoInnerError::into_error)?;
            file.sync_all()
        };
        close().map_err(|source| io_error("write", &path, source))
    }
}

fn append(tar: &mut Builder<BufWriter<File>>, name: &str, content: &[u8]) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, name, content)
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> DataError {
    DataError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}
