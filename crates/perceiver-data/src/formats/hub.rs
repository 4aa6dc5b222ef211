//! Image data sets of the Hugging Face Hub: `uoft-cs/cifar100`, `uoft-cs/cifar10`, and any
//! repository of Parquet files with an image and a label column.
//!
//! Files are downloaded with the `hf-hub` library into its cache, shared with Python's
//! `huggingface_hub`, so nothing is downloaded twice. `HF_TOKEN` (or the token file of
//! `hf auth login`), `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` have their usual
//! meaning. Every file is verified against the size and checksum that the Hub states before it is
//! read.
//!
//! ```no_run
//! use perceiver_data::{HubDataset, Split};
//!
//! let cifar = HubDataset::new("uoft-cs/cifar100");
//! let train = cifar.load(Split::Train, 32)?;
//! assert_eq!((train.len(), train.classes()[19].as_str()), (50_000, "cattle"));
//! # Ok::<(), perceiver_data::DataError>(())
//! ```

#[cfg(feature = "hub")]
pub(crate) mod files;
#[cfg(feature = "hub")]
pub(crate) mod repository;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use perceiver_hub::{HubAccess, HubProgress};
use perceiver_ops::RngKey;

use crate::dataset::labels::{Labels, numbered, require_dense};
use crate::dataset::{Dataset, Split, TestSplit};
use crate::error::Result;
use crate::formats::broken_images::BrokenImages;
use crate::formats::hub::repository::HubRepo;
use crate::formats::parquet::{ParquetOptions, lists_classes, read_labels, read_parquet};
use crate::progress::{LoadProgress, ProgressCallback, Work};

/// An image data set on the Hub.
#[derive(Clone, Debug)]
pub struct HubDataset {
    /// `owner/name`.
    pub repo: String,
    /// Branch, tag or commit. By default `main`, then `refs/convert/parquet`, which the Hub
    /// maintains for repositories with other file types.
    pub revision: Option<String>,
    /// The configuration, for repositories with several.
    pub config: Option<String>,
    /// The image column; guessed by default.
    pub image_column: Option<String>,
    /// The label column; guessed by default.
    pub label_column: Option<String>,
    /// The labels to read if there are fine and coarse ones.
    pub labels: Labels,
    /// The seed of the image order; see [`HubDataset::load`].
    pub seed: u64,
    /// The handling of unreadable images.
    pub broken: BrokenImages,
    /// Access to the Hub: endpoint, cache and token.
    pub access: HubAccess,
    /// The callback for decoding progress.
    pub watcher: ProgressCallback,
}

impl HubDataset {
    /// Creates a data set of repository `repo`, with all other options from defaults and the
    /// environment.
    pub fn new(repo: impl Into<String>) -> Self {
        Self {
            repo: repo.into(),
            revision: None,
            config: None,
            image_column: None,
            label_column: None,
            labels: Labels::Fine,
            seed: 0,
            broken: BrokenImages::Skip,
            access: HubAccess::from_env(),
            watcher: ProgressCallback::default(),
        }
    }

    /// Reports the progress of downloads and decoding to `watcher`.
    #[must_use]
    pub fn watched(mut self, watcher: ProgressCallback) -> Self {
        self.watcher = watcher.clone();
        self.access.on_progress = Some(Arc::new(move |progress: &HubProgress| {
            watcher.report(&LoadProgress {
                work: Work::Download(progress.file),
                done: progress.done,
                total: progress.total,
            });
        }));
        self
    }

    /// Reads one split, with images downscaled to a shorter side of `shorter_side` pixels. Without
    /// a test split, the validation split is the test split; then, or if there is none, the
    /// validation split is empty.
    ///
    /// Files on the Hub are often sorted by class, and validation is cut from the tail of the
    /// training set. So the images are shuffled by `seed`, except those of CIFAR-10 and CIFAR-100,
    /// which are mixed already and whose own tail is the validation set of published results.
    ///
    /// # Errors
    /// [`DataError::Hub`](crate::DataError::Hub) with a suggested fix when the Hub or the cache
    /// does not have the data set, [`DataError::WrongDownload`](crate::DataError::WrongDownload)
    /// when a file differs from the one that the Hub announced, and all errors of [`read_parquet`].
    pub fn load(&self, split: Split, shorter_side: usize) -> Result<Dataset> {
        let repo = HubRepo::open(self)?;
        let is_tested_by_validation = repo.is_tested_by_validation();
        if split == Split::Train && is_tested_by_validation {
            tracing::info!(
                "{}: no test split: its validation split is used as the test split, and part of the training images for validation",
                self.repo
            );
        }
        let files = repo.fetch_split(split)?;
        let mut options = self.parquet_options(shorter_side);
        // Classes that no file lists are those of the training split, even if the test split has
        // fewer.
        if split != Split::Train && !files.is_empty() && !lists_classes(&files, &options)? {
            let train = repo.fetch_split(Split::Train)?;
            options.classes = Some(read_labels(&train, &options)?.1);
        }
        let dataset = self.read(&repo, &files, split, &options)?;
        if split == Split::Train {
            self.require_dense(dataset.labels(), dataset.classes())?;
        }
        Ok(dataset)
    }

    /// Reads one split as [`HubDataset::load`] does, with labels matched by name to `classes`, such
    /// as a model's.
    ///
    /// # Errors
    /// As for [`HubDataset::load`], and
    /// [`DataError::OtherClasses`](crate::DataError::OtherClasses).
    pub(crate) fn load_of_classes(
        &self,
        split: Split,
        shorter_side: usize,
        classes: &[String],
    ) -> Result<Dataset> {
        let repo = HubRepo::open(self)?;
        let files = repo.fetch_split(split)?;
        let dataset = self.read(&repo, &files, split, &self.parquet_options(shorter_side))?;
        dataset.with_classes(classes)
    }

    /// Reads a split's files in the split's order.
    fn read(
        &self,
        repo: &HubRepo<'_>,
        files: &[PathBuf],
        split: Split,
        options: &ParquetOptions,
    ) -> Result<Dataset> {
        if files.is_empty() {
            return Dataset::new(self.repo.clone(), Vec::new(), Vec::new(), Vec::new());
        }
        let mut dataset = read_parquet(&self.repo, files, options)?;
        if split == Split::Test && repo.is_tested_by_validation() {
            dataset = dataset.with_test_split(TestSplit::Validation, 0);
        }
        if self.is_cifar() {
            return Ok(dataset);
        }
        Ok(dataset.shuffled(self.key(split)))
    }

    /// Returns the labels of a split and the class names found in it. Downloads its files, but
    /// decodes no images.
    ///
    /// # Errors
    /// As for [`HubDataset::load`].
    pub(crate) fn labels(&self, split: Split) -> Result<(Vec<u32>, Vec<String>)> {
        let files = HubRepo::open(self)?.fetch_split(split)?;
        read_labels(&files, &self.parquet_options(usize::MAX))
    }

    fn parquet_options(&self, shorter_side: usize) -> ParquetOptions {
        ParquetOptions {
            image_column: self.image_column.clone(),
            label_column: self.label_column.clone(),
            labels: self.labels,
            classes: None,
            shorter_side,
            watcher: self.watcher.clone(),
            broken: self.broken,
        }
    }

    /// Returns an error for unnamed classes of which most do not occur.
    fn require_dense(&self, labels: &[u32], classes: &[String]) -> Result<()> {
        if classes != numbered(classes.len() as u32) {
            return Ok(());
        }
        require_dense(Path::new(&self.repo), labels.iter().copied())
    }

    /// Checks that both splits exist on the Hub or, offline, in the cache. Downloads no file.
    ///
    /// # Errors
    /// [`DataError::Hub`](crate::DataError::Hub) as [`HubDataset::load`].
    pub fn check(&self) -> Result<()> {
        let repo = HubRepo::open(self)?;
        repo.split_files(Split::Train)?;
        repo.split_files(Split::Test)?;
        Ok(())
    }

    fn is_cifar(&self) -> bool {
        let name = self.repo.rsplit('/').next().unwrap_or_default();
        ["cifar10", "cifar100"].contains(&name)
    }

    fn key(&self, split: Split) -> RngKey {
        RngKey::new(self.seed).fold_in_name(match split {
            Split::Train => "hub train",
            Split::Test => "hub test",
            Split::Validation => "hub validation",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::DataError;

    #[test]
    fn a_token_is_not_printed() {
        let mut dataset = HubDataset::new("me/pets");
        dataset.access.token = Some("hf_secret".into());
        assert!(!format!("{dataset:?}").contains("hf_secret"));
    }

    #[test]
    fn invalid_repository_names_are_rejected() {
        for repo in ["", "a/b/c", "../up", "me/pets?x", "C:\\pets"] {
            let error = HubDataset::new(repo).check().unwrap_err();
            assert!(
                matches!(error, DataError::InvalidOption { .. }),
                "{repo}: {error}"
            );
        }
    }

    #[test]
    fn only_cifar_is_not_shuffled() {
        assert!(HubDataset::new("uoft-cs/cifar100").is_cifar());
        assert!(HubDataset::new("cifar10").is_cifar());
        assert!(!HubDataset::new("me/cifar100-sorted").is_cifar());
    }
}
