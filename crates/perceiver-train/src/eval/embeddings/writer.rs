//! Writes embeddings batch by batch, and replaces the file at the end.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use candle_core::Tensor;
#[cfg(feature = "parquet")]
use perceiver_data::NamedVectorWriter;
use perceiver_model::Features;

use crate::error::{Result, TrainError};
use crate::eval::embeddings::header::{Checksum, EmbeddedImage, EmbeddingsHeader, Stored};
use crate::eval::embeddings::{EmbeddingFormat, bytes_of, npy, safetensors_file};
#[cfg(feature = "parquet")]
use crate::eval::embeddings::{header::KEY, parquet};
#[cfg(feature = "parquet")]
use crate::run::atomic_file;
use crate::run::atomic_file::scratch;

/// Writes embeddings of images to a file. The values go to a file without a name first, since the
/// headers of all formats depend on the number of images; only the names stay in memory.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use perceiver_model::Features;
/// use perceiver_train::{EmbeddedImage, EmbeddingWriter, Embeddings};
///
/// let directory = tempfile::tempdir()?;
/// let path = directory.path().join("embeddings.npy");
/// let mut writer = EmbeddingWriter::create(&path, "runs/mine", "1f2e", Features::Pooled)?;
/// let image = EmbeddedImage { image: "cat.jpg".to_string(), image_percent_encoded: None };
/// writer.append(vec![image], &Tensor::new(&[[0.5_f32, 1.0]], &Device::Cpu)?)?;
/// assert_eq!(writer.finish()?, 1);
/// assert_eq!(Embeddings::read(&path)?.row(0), [0.5, 1.0]);
/// # Ok::<(), perceiver_data::BoxError>(())
/// ```
#[derive(Debug)]
pub struct EmbeddingWriter {
    path: PathBuf,
    format: EmbeddingFormat,
    /// The shape is empty before the first batch.
    header: EmbeddingsHeader,
    images: Vec<EmbeddedImage>,
    checksum: Checksum,
    body: Body,
}

/// The values so far.
#[derive(Debug)]
enum Body {
    /// As they are in memory, little-endian; none before the first batch.
    Plain(File),
    #[cfg(feature = "parquet")]
    Parquet(Box<NamedVectorWriter>),
}

impl EmbeddingWriter {
    /// Starts a file at `path`, whose extension determines its format, of embeddings of
    /// `checkpoint`, whose weights have the hash `weights_sha256`.
    ///
    /// # Errors
    /// When the extension is of no format, this program was built without its feature, or the
    /// directory cannot be written.
    pub fn create(
        path: &Path,
        checkpoint: &str,
        weights_sha256: &str,
        features: Features,
    ) -> Result<Self> {
        Ok(Self {
            path: path.to_path_buf(),
            format: EmbeddingFormat::required(path)?,
            header: EmbeddingsHeader {
                checkpoint: checkpoint.to_string(),
                weights_sha256: weights_sha256.to_string(),
                features,
                shape: Vec::new(),
            },
            images: Vec::new(),
            checksum: Checksum::default(),
            body: Body::Plain(scratch(path)?),
        })
    }

    /// Appends the features of images, `f32` `[images, ...]` as of
    /// [`Checkpoint::features`](crate::Checkpoint::features).
    ///
    /// # Errors
    /// When the disk is full, or the shape differs from that of the images before.
    pub fn append(&mut self, images: Vec<EmbeddedImage>, features: &Tensor) -> Result<()> {
        let (found, known) = (features.dims(), self.header.shape.as_slice());
        let count = found.first().copied();
        let shape = found.get(1..).unwrap_or_default();
        if count != Some(images.len()) || !(self.images.is_empty() || known == shape) {
            let expected = [&[images.len()], known].concat();
            let error = candle_core::Error::Msg(format!(
                "features of images: expected shape {expected:?}, found {found:?}"
            ));
            return Err(error.into());
        }
        let values = features.flatten_all()?.to_vec1::<f32>()?;
        if self.images.is_empty() {
            self.header.shape = shape.to_vec();
            self.start().map_err(|error| self.failed(error))?;
        }
        let bytes = bytes_of(&values);
        let written = match &mut self.body {
            Body::Plain(file) => file.write_all(&bytes),
            #[cfg(feature = "parquet")]
            Body::Parquet(writer) => writer.append(&parquet::names(&images), &values),
        };
        written.map_err(|error| self.failed(error))?;
        self.checksum.update(&bytes);
        self.images.extend(images);
        Ok(())
    }

    /// Prepares the body for embeddings of the shape in the header.
    #[cfg_attr(
        not(feature = "parquet"),
        expect(clippy::unnecessary_wraps, clippy::unused_self)
    )]
    fn start(&mut self) -> io::Result<()> {
        #[cfg(feature = "parquet")]
        if let (EmbeddingFormat::Parquet, Body::Plain(file)) = (self.format, &self.body) {
            let writer = NamedVectorWriter::new(file.try_clone()?, self.header.width())?;
            self.body = Body::Parquet(Box::new(writer));
        }
        Ok(())
    }

    /// Writes the file, atomically replacing an old one, and returns the number of images.
    ///
    /// # Errors
    /// When there are no images or the file cannot be written; an old file stays.
    pub fn finish(self) -> Result<usize> {
        if self.images.is_empty() {
            return Err(self.failed(io::Error::other("there is no image to embed")));
        }
        let Self {
            path,
            format,
            header,
            images,
            checksum,
            body,
        } = self;
        let failed = |source| TrainError::Io {
            action: "write",
            path: path.clone(),
            source,
        };
        let count = images.len();
        let stored =
            Stored::new(header, &images, checksum).map_err(|error| failed(error.into()))?;
        match body {
            Body::Plain(mut values) => {
                values.rewind().map_err(failed)?;
                match format {
                    EmbeddingFormat::Npy => npy::write(&path, stored, images, &mut values)?,
                    _ => safetensors_file::write(&path, &stored, &images, &mut values)?,
                }
            }
            #[cfg(feature = "parquet")]
            Body::Parquet(writer) => {
                let stored =
                    serde_json::to_string(&stored).map_err(|error| failed(error.into()))?;
                let mut whole = writer.finish(KEY, &stored).map_err(failed)?;
                whole.rewind().map_err(failed)?;
                atomic_file::write_with(&path, |file| io::copy(&mut whole, file).map(drop))?;
            }
        }
        Ok(count)
    }

    fn failed(&self, source: io::Error) -> TrainError {
        TrainError::Io {
            action: "write",
            path: self.path.clone(),
            source,
        }
    }
}
