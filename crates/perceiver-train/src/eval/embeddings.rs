//! Embeddings of images in files: the features that a model computes before its head, with the names
//! of the images and the checkpoint they are of.
//!
//! | file | values | names and checkpoint |
//! |---|---|---|
//! | `.npy` | the array | in a second file, `FILE.npy.json` |
//! | `.safetensors` | the tensor `embeddings` | in the metadata |
//! | `.parquet` | a column of lists, `embedding` | columns, and the key-value metadata |
//!
//! The array is `[images, width]`, or with all latents `[images, latents, width]`.

pub(crate) mod header;
pub(crate) mod nearest;
pub(crate) mod npy;
#[cfg(feature = "parquet")]
pub(crate) mod parquet;
pub(crate) mod safetensors_file;
pub(crate) mod writer;

use std::path::Path;

use crate::checkpoint::Checkpoint;
use crate::error::{Result, TrainError};
use crate::eval::embeddings::header::{EmbeddedImage, EmbeddingsHeader};

/// The file format of embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmbeddingFormat {
    /// NumPy's array format, with a second file for the names.
    Npy,
    /// safetensors.
    Safetensors,
    /// Parquet (feature `parquet`).
    Parquet,
}

impl EmbeddingFormat {
    /// The extensions of the formats, for messages.
    pub const EXTENSIONS: &str = ".npy, .safetensors or .parquet";

    /// Returns the format of a file by its extension, if it is one of
    /// [`EmbeddingFormat::EXTENSIONS`].
    pub fn of(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?;
        Some(match extension.to_ascii_lowercase().as_str() {
            "npy" => Self::Npy,
            "safetensors" => Self::Safetensors,
            "parquet" => Self::Parquet,
            _ => return None,
        })
    }

    /// Returns the format of a file.
    ///
    /// # Errors
    /// When the extension is of no format, or this program was built without its feature.
    pub(crate) fn required(path: &Path) -> Result<Self> {
        match Self::of(path) {
            #[cfg(not(feature = "parquet"))]
            Some(Self::Parquet) => Err(TrainError::Data(perceiver_data::DataError::NotBuiltIn {
                what: format!("the file {}", path.display()),
                feature: "parquet",
            })),
            Some(format) => Ok(format),
            None => Err(TrainError::Io {
                action: "use",
                path: path.to_path_buf(),
                source: std::io::Error::other(format!(
                    "expected a name that ends in {}",
                    Self::EXTENSIONS
                )),
            }),
        }
    }
}

/// Embeddings read from a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Embeddings {
    /// What they are embeddings of.
    pub header: EmbeddingsHeader,
    /// The images, in the order of the rows.
    pub images: Vec<EmbeddedImage>,
    /// `[images, values of an image]`.
    values: Vec<f32>,
}

impl Embeddings {
    /// Reads a file that [`EmbeddingWriter`](writer::EmbeddingWriter) wrote.
    ///
    /// # Errors
    /// When it is missing, damaged or of another kind, and if it is a Parquet file and this program
    /// was built without the feature `parquet`.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (stored, images, values) = match EmbeddingFormat::required(path)? {
            EmbeddingFormat::Npy => npy::read(path)?,
            EmbeddingFormat::Safetensors => safetensors_file::read(path)?,
            #[cfg(feature = "parquet")]
            EmbeddingFormat::Parquet => parquet::read(path)?,
            #[cfg(not(feature = "parquet"))]
            EmbeddingFormat::Parquet => unreachable!("refused by `required`"),
        };
        stored.require_match(path, &images, &values)?;
        Ok(Self {
            header: stored.header,
            images,
            values,
        })
    }

    /// Returns the number of images.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// Returns the embedding of an image, with all latents one after another.
    ///
    /// # Panics
    /// When there is no such image.
    pub fn row(&self, image: usize) -> &[f32] {
        let width = self.header.width();
        &self.values[image * width..][..width]
    }

    /// Checks that the embeddings in the file at `path` are of this checkpoint, called `name`.
    ///
    /// # Errors
    /// [`TrainError::OtherCheckpoint`] with both checkpoints, and when the weights cannot be read
    /// from the device.
    pub fn require_checkpoint(
        &self,
        path: &Path,
        checkpoint: &Checkpoint,
        name: &str,
    ) -> Result<()> {
        let sha256 = checkpoint.weights_sha256()?;
        if sha256 == self.header.weights_sha256 {
            return Ok(());
        }
        let describe = |name: &str, sha256: &str| {
            let shortened = sha256.get(..16).unwrap_or(sha256);
            format!("{name} (weights with sha256 {shortened}...)")
        };
        Err(TrainError::OtherCheckpoint {
            path: path.to_path_buf(),
            expected: describe(&self.header.checkpoint, &self.header.weights_sha256),
            found: describe(name, &sha256),
        })
    }
}

/// Reads little-endian `f32` values.
pub(crate) fn values_of(bytes: &[u8]) -> Vec<f32> {
    let (values, _) = bytes.as_chunks();
    values
        .iter()
        .map(|&value| f32::from_le_bytes(value))
        .collect()
}

/// Writes little-endian `f32` values.
pub(crate) fn bytes_of(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use candle_core::{Device, Tensor};
    use perceiver_model::Features;

    use super::*;
    use crate::eval::embeddings::writer::EmbeddingWriter;

    const NAMES: [&str; 3] = ["a.png", "b, \"c\"\n\u{1b}.png", "\u{fffd}.png"];

    fn formats() -> Vec<&'static str> {
        let parquet = cfg!(feature = "parquet").then_some("e.parquet");
        ["e.npy", "e.safetensors"]
            .into_iter()
            .chain(parquet)
            .collect()
    }

    /// Writes embeddings of three images in two batches.
    fn write(path: &Path, features: Features) {
        let mut writer = EmbeddingWriter::create(path, "runs/a", "0123", features).unwrap();
        for (batch, names) in NAMES.chunks(2).enumerate() {
            let images = names.iter().map(|&name| EmbeddedImage {
                image: name.to_string(),
                image_percent_encoded: name.contains('\u{fffd}').then(|| "%FF.png".to_string()),
            });
            let values: Vec<f32> = (0..names.len() * 6)
                .map(|value| (value + 12 * batch) as f32 / 7.0 - 1.0)
                .collect();
            let values = match features {
                Features::Pooled => Tensor::from_vec(values, (names.len(), 6), &Device::Cpu),
                Features::Latents => Tensor::from_vec(values, (names.len(), 2, 3), &Device::Cpu),
            };
            writer.append(images.collect(), &values.unwrap()).unwrap();
        }
        assert_eq!(writer.finish().unwrap(), 3);
    }

    fn in_directory(test: impl Fn(PathBuf)) {
        for name in formats() {
            let directory = tempfile::tempdir().unwrap();
            test(directory.path().join(name));
        }
    }

    #[test]
    fn embeddings_round_trip_in_every_format() {
        in_directory(|path| {
            for (features, shape) in [
                (Features::Latents, vec![2, 3]),
                (Features::Pooled, vec![6]), // replaces the file
            ] {
                write(&path, features);
                let read = Embeddings::read(&path).unwrap();
                let header = EmbeddingsHeader {
                    checkpoint: "runs/a".to_string(),
                    weights_sha256: "0123".to_string(),
                    features,
                    shape,
                };
                assert_eq!(read.header, header);
                let names: Vec<&str> = read.images.iter().map(|one| one.image.as_str()).collect();
                assert_eq!(names, NAMES);
                let encoded = read.images[2].image_percent_encoded.as_deref();
                assert_eq!(encoded, Some("%FF.png"));
                let expected: Vec<f32> = (12..18).map(|value| value as f32 / 7.0 - 1.0).collect();
                assert_eq!(read.row(2), expected);
            }
        });
    }

    /// Every changed or missing byte is found, or changes nothing, such as a space in a header.
    #[test]
    fn damage_is_found_and_never_panics() {
        in_directory(|path| {
            write(&path, Features::Pooled);
            let whole = Embeddings::read(&path).unwrap();
            let mut files = vec![path.clone()];
            files.extend(Some(npy::sidecar(&path)).filter(|sidecar| sidecar.exists()));
            for file in files {
                let bytes = fs::read(&file).unwrap();
                let mut found = 0;
                for at in 0..bytes.len() {
                    let mut flipped = bytes.clone();
                    flipped[at] ^= 1;
                    for damaged in [&flipped, &bytes[..at]] {
                        fs::write(&file, damaged).unwrap();
                        match Embeddings::read(&path) {
                            Ok(read) => assert_eq!(read, whole, "byte {at}"),
                            Err(_) => found += 1,
                        }
                    }
                }
                assert!(found > bytes.len(), "{found} of {}", bytes.len());
                fs::write(&file, &bytes).unwrap();
            }
            assert_eq!(Embeddings::read(&path).unwrap(), whole);
        });
    }

    #[test]
    fn other_names_and_missing_files_are_errors() {
        let directory = tempfile::tempdir().unwrap();
        let error = |name: &str| {
            let path = directory.path().join(name);
            Embeddings::read(path).unwrap_err().to_string()
        };
        let extension = error("embeddings.csv");
        assert!(
            extension.contains(EmbeddingFormat::EXTENSIONS),
            "{extension}"
        );
        assert!(error("embeddings.npy").contains("cannot read"));
        let without = EmbeddingWriter::create(
            &directory.path().join("nowhere/e.npy"),
            "runs/a",
            "0123",
            Features::Pooled,
        );
        assert!(without.unwrap_err().to_string().contains("nowhere"));
    }

    #[test]
    fn without_images_nothing_is_written() {
        in_directory(|path| {
            let writer = EmbeddingWriter::create(&path, "a", "0", Features::Pooled).unwrap();
            assert!(
                writer
                    .finish()
                    .unwrap_err()
                    .to_string()
                    .contains("no image")
            );
            let files = fs::read_dir(path.parent().unwrap()).unwrap();
            assert_eq!(files.count(), 0);
        });
    }

    #[cfg(not(feature = "parquet"))]
    #[test]
    fn parquet_needs_its_feature() {
        let error = Embeddings::read("e.parquet").unwrap_err().to_string();
        assert!(error.contains("the Cargo feature `parquet`"), "{error}");
    }
}
