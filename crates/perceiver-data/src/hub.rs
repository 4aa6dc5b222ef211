//! Image data sets of the Hugging Face Hub: `uoft-cs/cifar100`, `uoft-cs/cifar10`, and any repository of Parquet
//! files with a picture and a label column.
//!
//! Files come through the `hf-hub` library and lie in its cache, which Python's `huggingface_hub` shares, so nothing
//! is fetched twice. `HF_TOKEN` (or the token file of `hf auth login`), `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT` and
//! `HF_HUB_OFFLINE` have their usual meaning. Every file is checked against the size and the checksum that the Hub
//! states before it is read.
//!
//! ```no_run
//! use perceiver_data::{HubDataset, Split};
//!
//! let cifar = HubDataset::new("uoft-cs/cifar100");
//! let train = cifar.load(Split::Train, 32)?;
//! assert_eq!((train.len(), train.classes()[19].as_str()), (50_000, "cattle"));
//! # Ok::<(), perceiver_data::DataError>(())
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use perceiver_hub::{HubAccess, HubProgress};
use perceiver_ops::Key;

use crate::broken_pictures::BrokenPictures;
use crate::dataset::{Dataset, Split, TestSplit};
use crate::error::Result;
use crate::hub_repo::HubRepo;
use crate::labels::{Labels, numbered, require_dense};
use crate::parquet::{ParquetOptions, lists_classes, read_labels, read_parquet};
use crate::watcher::{Reading, Watcher, Work};

/// An image data set on the Hub.
#[derive(Clone, Debug)]
pub struct HubDataset {
    /// `owner/name`.
    pub repo: String,
    /// Branch, tag or commit; if not given, `main`, then the `refs/convert/parquet` that the Hub keeps for
    /// repositories with other file types.
    pub revision: Option<String>,
    /// Configuration, for repositories with several.
    pub config: Option<String>,
    /// Column of the pictures; guessed if not given.
    pub image_column: Option<String>,
    /// Column of the labels; guessed if not given.
    pub label_column: Option<String>,
    /// Which labels to read where there are fine and coarse ones.
    pub labels: Labels,
    /// Seed of the order that the pictures get; see [`HubDataset::load`].
    pub seed: u64,
    /// What becomes of pictures that cannot be read.
    pub broken: BrokenPictures,
    /// Where and how to reach the Hub.
    pub access: HubAccess,
    /// Who is told how far decoding is.
    pub watcher: Watcher,
}

impl HubDataset {
    /// The data set of repository `repo`, everything else by default and by the environment.
    pub fn new(repo: impl Into<String>) -> Self {
        Self {
            repo: repo.into(),
            revision: None,
            config: None,
            image_column: None,
            label_column: None,
            labels: Labels::Fine,
            seed: 0,
            broken: BrokenPictures::Skip,
            access: HubAccess::from_env(),
            watcher: Watcher::default(),
        }
    }

    /// The same, telling `watcher` how far downloads and decoding are.
    #[must_use]
    pub fn watched(mut self, watcher: Watcher) -> Self {
        self.watcher = watcher.clone();
        self.access.on_progress = Some(Arc::new(move |progress: &HubProgress| {
            watcher.tell(&Reading {
                work: Work::Download(progress.file),
                done: progress.done,
                total: progress.total,
            });
        }));
        self
    }

    /// Reads one split, pictures shrunk until their shorter side has `shorter_side` pixels. A repository without a
    /// test split is judged by its validation split; a repository without a validation split, or judged by it, has an empty one.
    ///
    /// Files on the Hub are often sorted by class, and validation is cut from the tail of the training set. So the
    /// pictures are put in an order drawn by `seed`, except those of CIFAR-10 and CIFAR-100, which are mixed already
    /// and whose own tail is the validation set of published results.
    ///
    /// # Errors
    /// [`DataError::Hub`](crate::DataError::Hub) with a way out when the Hub or the cache does not have the data set,
    /// [`DataError::WrongDownload`](crate::DataError::WrongDownload) when a file is not the one that the Hub announced, and all of
    /// [`read_parquet`]'s.
    pub fn load(&self, split: Split, shorter_side: usize) -> Result<Dataset> {
        let repo = HubRepo::open(self)?;
        let is_tested_by_validation = repo.is_tested_by_validation();
        if split == Split::Train && is_tested_by_validation {
            tracing::info!(
                "{}: no test split: its validation split is kept for the test, and a part of the training images validates",
                self.repo
            );
        }
        let files = repo.fetch_split(split)?;
        let mut options = self.parquet_options(shorter_side);
        // Classes that no file lists are those of the training split, however few of them are tested.
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

    /// Reads one split as [`HubDataset::load`] does, its labels matched by name with `classes`, such as a model's.
    ///
    /// # Errors
    /// As for [`HubDataset::load`], and [`DataError::OtherClasses`](crate::DataError::OtherClasses).
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

    /// Reads a split's files, in the order that the split has.
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

    /// The labels of a split and the classes that it names by itself. Its files are fetched; no image of them is read.
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

    /// Refuses classes without names of which most do not occur.
    fn require_dense(&self, labels: &[u32], classes: &[String]) -> Result<()> {
        if classes != numbered(classes.len() as u32) {
            return Ok(());
        }
        require_dense(Path::new(&self.repo), labels.iter().copied())
    }

    /// Whether both splits are there, on the Hub or, offline, in the cache. Downloads no file.
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

    fn key(&self, split: Split) -> Key {
        Key::new(self.seed).fold_in_name(match split {
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
    fn names_that_are_no_repository_are_refused() {
        for repo in ["", "a/b/c", "../up", "me/pets?x", "C:\\pets"] {
            let error = HubDataset::new(repo).check().unwrap_err();
            assert!(
                matches!(error, DataError::InvalidOption { .. }),
                "{repo}: {error}"
            );
        }
    }

    #[test]
    fn only_cifar_keeps_its_order() {
        assert!(HubDataset::new("uoft-cs/cifar100").is_cifar());
        assert!(HubDataset::new("cifar10").is_cifar());
        assert!(!HubDataset::new("me/cifar100-sorted").is_cifar());
    }
}
