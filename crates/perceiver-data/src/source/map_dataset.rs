//! Map-style data sets: a program's own images, read by index when a batch needs them.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::dataset::class_names::require_few_enough;
use crate::dataset::image::Image;
use crate::dataset::stratified_split::stratified_split;
use crate::error::{BoxError, DataError, Result};
use crate::hex::hex;

/// A map-style data set, like PyTorch's `Dataset` with `__getitem__`: labelled images that are read
/// by index, such as from a database or an archive, or generated. They need not fit in memory.
///
/// ```
/// use perceiver_data::{BoxError, Image, MapDataset, Samples};
///
/// /// 100 images of one gray value each, in two classes.
/// struct Grays { classes: Vec<String>, labels: Vec<u32> }
///
/// impl MapDataset for Grays {
///     fn name(&self) -> &str { "grays" }
///     fn classes(&self) -> &[String] { &self.classes }
///     fn labels(&self) -> &[u32] { &self.labels }
///     fn fingerprint(&self) -> String { "version 1".into() }
///     fn image(&self, index: usize) -> Result<Image, BoxError> {
///         Ok(Image::new(8, 8, vec![index as u8; 3 * 8 * 8])?) // [3, height, width]
///     }
/// }
///
/// let labels = (0..100).map(|index| u32::from(index >= 50)).collect();
/// let samples = Samples::map(Grays { classes: vec!["dark".into(), "light".into()], labels })?;
/// assert_eq!(samples.len(), 100);
/// assert_eq!(samples.image(70)?.pixels()[0], 70);
/// # Ok::<(), perceiver_data::DataError>(())
/// ```
pub trait MapDataset: Send + Sync {
    /// Returns the display name.
    fn name(&self) -> &str;

    /// Returns the class names, indexed by label.
    fn classes(&self) -> &[String];

    /// Returns the class index of every image, in order. There are as many images as labels.
    fn labels(&self) -> &[u32];

    /// Reads an image. The loader calls this on several threads at once, and once per epoch, or more
    /// often for images that others are mixed with and for rare classes that are balanced; the same
    /// index must give the same image.
    ///
    /// # Errors
    /// Any error of the data set. It ends the epoch with [`DataError::MapDataset`].
    fn image(&self, index: usize) -> std::result::Result<Image, BoxError>;

    /// Returns a text that differs for different images, such as a hash or a version. A run records
    /// it, and resumes only with the same data.
    fn fingerprint(&self) -> String;
}

/// The images of a [`MapDataset`], or a part of them. A clone shares the data set.
#[derive(Clone)]
pub struct MappedSamples {
    dataset: Arc<dyn MapDataset>,
    /// The indices of these images in the data set.
    indices: Arc<[usize]>,
}

impl MappedSamples {
    /// Creates the samples of a whole data set.
    ///
    /// # Errors
    /// When a label names no class, or there are more than [`MAX_CLASSES`](crate::MAX_CLASSES)
    /// classes.
    pub(crate) fn new(dataset: Arc<dyn MapDataset>) -> Result<Self> {
        let (name, classes) = (PathBuf::from(dataset.name()), dataset.classes().len());
        require_few_enough(&name, classes)?;
        let mut labels = dataset.labels().iter();
        if let Some(record) = labels.position(|&label| label as usize >= classes) {
            return Err(DataError::LabelOutOfRange {
                path: name,
                record,
                label: i64::from(dataset.labels()[record]),
                classes,
            });
        }
        let indices = (0..dataset.labels().len()).collect();
        Ok(Self { dataset, indices })
    }

    /// Returns the display name of the data set.
    pub fn name(&self) -> &str {
        self.dataset.name()
    }

    /// Returns the number of images.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// Returns the class names, indexed by label.
    pub fn classes(&self) -> &[String] {
        self.dataset.classes()
    }

    /// Returns the class index of an image.
    pub fn label(&self, index: usize) -> u32 {
        self.dataset.labels()[self.indices[index]]
    }

    /// Reads an image.
    ///
    /// # Errors
    /// [`DataError::MapDataset`] with the error of the data set.
    pub fn image(&self, index: usize) -> Result<Image> {
        let index = self.indices[index];
        self.dataset
            .image(index)
            .map_err(|source| DataError::MapDataset {
                name: self.name().to_owned(),
                index,
                source,
            })
    }

    /// Returns the SHA-256, in hexadecimal, of the data set's fingerprint, of the class names, and
    /// of indices and labels in order.
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        let texts = self.classes().iter().map(String::as_str);
        let fingerprint = self.dataset.fingerprint();
        hash.update((self.classes().len() as u64).to_le_bytes());
        for text in std::iter::once(fingerprint.as_str()).chain(texts) {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        for (at, index) in self.indices.iter().enumerate() {
            hash.update((*index as u64).to_le_bytes());
            hash.update(self.label(at).to_le_bytes());
        }
        hex(&hash.finalize())
    }

    /// Keeps the first `len` images.
    #[must_use]
    pub fn truncated(self, len: usize) -> Self {
        let indices = self.indices.iter().copied().take(len).collect();
        Self { indices, ..self }
    }

    /// Draws a share of every class as a second part; see [`Dataset::split_stratified`].
    ///
    /// [`Dataset::split_stratified`]: crate::Dataset::split_stratified
    pub fn split_stratified(self, fraction: f64, seed: u64) -> (Self, Self) {
        let labels: Vec<u32> = (0..self.len()).map(|at| self.label(at)).collect();
        let [rest, drawn] = stratified_split(&labels, fraction, seed).map(|part| Self {
            dataset: Arc::clone(&self.dataset),
            indices: part.into_iter().map(|at| self.indices[at]).collect(),
        });
        (rest, drawn)
    }

    /// Splits off the last `fraction` as a second part; see [`Dataset::split_tail`].
    ///
    /// [`Dataset::split_tail`]: crate::Dataset::split_tail
    pub fn split_tail(self, fraction: f64) -> (Self, Self) {
        let keep = (self.len() as f64 * (1.0 - fraction)).floor() as usize;
        let [rest, tail] = <[&[usize]; 2]>::from(self.indices.split_at(keep)).map(|part| Self {
            dataset: Arc::clone(&self.dataset),
            indices: part.into(),
        });
        (rest, tail)
    }
}

impl fmt::Debug for MappedSamples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MappedSamples")
            .field("name", &self.name())
            .field("images", &self.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Dataset;
    use crate::loader::Loader;
    use crate::loader::config::LoaderConfig;
    use crate::progress::ProgressCallback;
    use crate::source::samples::Samples;
    use crate::transforms::augment::Augmentation;
    use crate::transforms::fit::Fit;
    use crate::transforms::mixup_cutmix::Mixing;
    use crate::transforms::normalize::{ChannelSums, Normalization};
    use crate::transforms::preprocess::Preprocessing;

    struct Numbered {
        classes: Vec<String>,
        labels: Vec<u32>,
    }

    impl MapDataset for Numbered {
        fn name(&self) -> &'static str {
            "numbered"
        }
        fn classes(&self) -> &[String] {
            &self.classes
        }
        fn labels(&self) -> &[u32] {
            &self.labels
        }
        fn image(&self, index: usize) -> std::result::Result<Image, BoxError> {
            if index == 7 {
                return Err("no seventh image".into());
            }
            Ok(Image::new(1, 1, vec![index as u8; 3])?)
        }
        fn fingerprint(&self) -> String {
            "1".to_owned()
        }
    }

    fn numbered(labels: Vec<u32>) -> Result<MappedSamples> {
        let classes = ["a", "b"].map(String::from).to_vec();
        MappedSamples::new(Arc::new(Numbered { classes, labels }))
    }

    #[test]
    fn parts_read_their_images_of_the_whole() {
        let all = numbered(vec![0, 0, 1, 1, 0, 1]).unwrap();
        let (train, validation) = all.clone().split_stratified(0.34, 0);
        assert_eq!((train.len(), validation.len()), (4, 2));
        let mut values = Vec::new();
        for part in [&train, &validation] {
            for at in 0..part.len() {
                let index = part.image(at).unwrap().pixels()[0];
                assert_eq!(part.label(at), all.label(usize::from(index)));
                values.push(index);
            }
        }
        values.sort_unstable();
        assert_eq!(values, [0, 1, 2, 3, 4, 5]);
        assert_ne!(train.sha256(), validation.sha256());
    }

    #[test]
    fn errors_name_the_data_set_and_the_index() {
        let error = numbered(vec![0, 2]).unwrap_err().to_string();
        assert!(error.contains("record 1 has label 2"), "{error}");
        let error = numbered(vec![0; 8]).unwrap().image(7).unwrap_err();
        let expected = "numbered: image 7 cannot be read: no seventh image";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn the_tail_is_the_last_images() {
        let (rest, tail) = numbered(vec![0, 1, 0, 1, 1]).unwrap().split_tail(0.4);
        assert_eq!((rest.len(), tail.len()), (3, 2));
        assert_eq!(tail.image(0).unwrap().pixels()[0], 3);
    }

    #[test]
    fn sums_are_those_of_the_images() {
        let samples = Samples::Mapped(numbered(vec![0; 5]).unwrap());
        let sums = samples.channel_sums(0..5, &ProgressCallback::default());
        let images: Vec<Image> = (0..5).map(|at| samples.image(at).unwrap()).collect();
        let expected = ChannelSums::of(&images, &ProgressCallback::default());
        assert_eq!(sums.unwrap(), expected);
    }

    /// Batches do not depend on whether the images are in memory, with augmentation and mixing too.
    #[test]
    fn batches_are_those_of_the_same_images_in_memory() {
        let labels: Vec<u32> = (0..6).map(|at| at % 2).collect();
        let mapped = numbered(labels.clone()).unwrap();
        let images = (0..6).map(|at| mapped.image(at).unwrap()).collect();
        let classes = mapped.classes().to_vec();
        let dataset = Dataset::new("same", images, labels, classes).unwrap();
        let bits = |samples: Samples| {
            let preprocessing = Preprocessing {
                image_size: 4,
                antialias: false,
                fit: Fit::Stretch,
                normalization: Normalization::adapt(&dataset).unwrap(),
                transformers: None,
            };
            let config = LoaderConfig {
                batch_size: 4,
                shuffle: true,
                augmentation: Some(Augmentation {
                    zoom: 0.5,
                    mixing: Mixing {
                        cutmix: 1.0,
                        ..Mixing::default()
                    },
                    ..Augmentation::default()
                }),
                ..LoaderConfig::default()
            };
            let loader = Loader::new(samples, preprocessing, config).unwrap();
            let batches = loader.epoch(1, 0).map(|batch| {
                let batch = batch.unwrap();
                let images = batch.images.flatten_all().unwrap();
                (batch.indices, images.to_vec1::<f32>().unwrap())
            });
            batches.collect::<Vec<_>>()
        };
        let in_memory = bits(dataset.clone().into());
        assert_eq!(bits(Samples::Mapped(mapped)), in_memory);
    }
}
