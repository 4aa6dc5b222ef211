//! Where a data set comes from, as people write it: `cifar100`, `folder:photos`, `hf:uoft-cs/cifar10`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::broken_pictures::BrokenPictures;
use crate::cifar::Cifar;
use crate::class_names::ClassMap;
use crate::dataset::{Dataset, Split};
use crate::error::{DataError, Result};
use crate::folder::{FolderFiles, ImageFolder};
use crate::folder_listing::FolderListing;
#[cfg(feature = "hub")]
use crate::hub::HubDataset;
use crate::labels::Labels;
use crate::shapes::{self, shapes};
use crate::shards::ShardFolder;
use crate::watcher::Watcher;

/// The place a data set is read from. Its text form is what configuration files and flags hold.
///
/// ```
/// use std::path::PathBuf;
/// use perceiver_data::Source;
///
/// let source: Source = "folder:holiday/photos".parse()?;
/// assert_eq!(source, Source::Folder(PathBuf::from("holiday/photos")));
/// assert_eq!(source.to_string(), "folder:holiday/photos");
/// # Ok::<(), perceiver_data::DataError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Source {
    /// `cifar100`: 100 classes in 20 groups, from the data directory.
    Cifar100,
    /// `cifar10`: 10 classes, from the data directory.
    Cifar10,
    /// `shapes`: the embedded data set, drawn when it is asked for.
    Shapes,
    /// `folder:DIR`: picture files in class folders.
    Folder(PathBuf),
    /// `shards:DIR[,image=COLUMN][,label=COLUMN]`: files of many pictures, which training reads piece by piece; see [`ShardFolder`].
    Shards {
        /// The directory.
        root: PathBuf,
        /// The column of the images of Parquet files, where it cannot be told by its name.
        image_column: Option<String>,
        /// The column of the labels of Parquet files, where it cannot be told by its name.
        label_column: Option<String>,
    },
    /// `hf:USER/NAME[:IMAGE_COLUMN:LABEL_COLUMN]`: a data set of the Hugging Face Hub. Needs the crate's feature
    /// `hub`.
    Hub {
        /// The repository, `USER/NAME`.
        repo: String,
        /// The column of the pictures, where it cannot be guessed.
        image_column: Option<String>,
        /// The column of the labels, where it cannot be guessed.
        label_column: Option<String>,
    },
    /// `memory:NAME`: a data set that a program had in memory, by its name. Nothing can read it again.
    Memory(String),
}

/// How to read a [`Source`]; each source uses what concerns it.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadOptions {
    /// The directory that CIFAR's directories lie in; `data` by default.
    pub data_dir: PathBuf,
    /// Classes or coarse groups.
    pub labels: Labels,
    /// Pictures of folders and of the Hub are shrunk until their shorter side has this many pixels; 64 by default.
    pub shorter_side: usize,
    /// The test part of a folder that has no split of its own, of each class; 0.2 by default.
    pub test_fraction: f64,
    /// The seed of a folder's order and split, and of the Hub's order; 0 by default.
    pub seed: u64,
    /// Who is told how far reading is; nobody by default.
    pub watcher: Watcher,
    /// What becomes of pictures of folders and of the Hub that cannot be read; skipped by default.
    pub broken: BrokenPictures,
    /// The files of a folder, where they are listed already; see [`Source::listing`].
    pub listing: Option<Arc<FolderListing>>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("data"),
            labels: Labels::Fine,
            shorter_side: 64,
            test_fraction: 0.2,
            seed: 0,
            watcher: Watcher::default(),
            broken: BrokenPictures::Skip,
            listing: None,
        }
    }
}

impl Source {
    /// The files of a folder as they are now, for [`LoadOptions::listing`]: whoever trains for hours judges by the files that
    /// were there at the start. None of other sources.
    ///
    /// # Errors
    /// Those of [`FolderListing::read`].
    pub fn listing(&self, options: &LoadOptions) -> Result<Option<Arc<FolderListing>>> {
        match self {
            Self::Folder(root) => self.image_folder(root, options)?.listing().map(Some),
            _ => Ok(None),
        }
    }

    /// Reads all images of a source without splits: the training part and the test part that would be drawn. None of a source that
    /// has splits.
    ///
    /// # Errors
    /// As for [`Source::load`], but for classes with too few images or none that can be read.
    pub fn load_parts(&self, options: &LoadOptions) -> Result<Option<[Dataset; 2]>> {
        match self {
            Self::Folder(root) => self.image_folder(root, options)?.load_parts(),
            _ => Ok(None),
        }
    }

    /// Whether another source is this one: the same, or the same directory by another path.
    pub fn is_same_place(&self, other: &Self) -> bool {
        let real = |path: &Path| path.canonicalize().ok();
        let same = |a: &Path, b: &Path| real(a).is_some_and(|a| Some(a) == real(b));
        match (self, other) {
            (Self::Folder(a), Self::Folder(b))
            | (Self::Shards { root: a, .. }, Self::Shards { root: b, .. }) => a == b || same(a, b),
            _ => self == other,
        }
    }

    /// A short name for people and for directories of runs: of a directory its real name, also of `.`.
    pub fn short_name(&self) -> String {
        let text = self.to_string();
        let last = text.rsplit([':', '/']).find(|part| !part.is_empty());
        let name = match self {
            Self::Folder(path) | Self::Shards { root: path, .. } => {
                let real = path.canonicalize().unwrap_or_else(|_| path.clone());
                real.file_name()
                    .map(|name| name.to_string_lossy().into_owned())
            }
            Self::Hub { repo, .. } => repo.rsplit('/').next().map(ToOwned::to_owned),
            _ => last.map(ToOwned::to_owned),
        };
        name.unwrap_or_else(|| "run".to_owned())
    }

    /// Reads a split. A validation split that is not there is empty.
    ///
    /// # Errors
    /// Whatever is wrong with the data, or with the options for this source.
    pub fn load(&self, split: Split, options: &LoadOptions) -> Result<Dataset> {
        match self {
            Self::Cifar100 => Cifar::Hundred.read(&options.data_dir, split, options.labels),
            Self::Cifar10 => Cifar::Ten.read(&options.data_dir, split, options.labels),
            Self::Shapes => shapes(split, options.labels),
            Self::Folder(root) => self.image_folder(root, options)?.load(split),
            Self::Shards { .. } => self.shard_folder(options)?.load(split, options),
            #[cfg(feature = "hub")]
            Self::Hub { .. } => self.hub_dataset(options).load(split, options.shorter_side),
            #[cfg(not(feature = "hub"))]
            Self::Hub { .. } => Err(self.without_hub()),
            Self::Memory(_) => Err(self.only_in_memory()),
        }
    }

    /// Reads a split as [`Source::load`] does, its labels matched by name with `classes`: those of the training split, or a model's.
    ///
    /// # Errors
    /// As for [`Source::load`], and [`DataError::OtherClasses`] for images of a class that is not among `classes`.
    pub fn load_of_classes(
        &self,
        split: Split,
        options: &LoadOptions,
        classes: &[String],
    ) -> Result<Dataset> {
        match self {
            #[cfg(feature = "hub")]
            Self::Hub { .. } => {
                self.hub_dataset(options)
                    .load_of_classes(split, options.shorter_side, classes)
            }
            _ => self.load(split, options)?.with_classes(classes),
        }
    }

    /// The number of images of each of `classes` in a split, matched by name, told by its labels, of which no image is read. A folder's
    /// broken ones are counted too. The Hub's files are fetched for it.
    ///
    /// A test split of which this fails would fail when all has been learned.
    ///
    /// # Errors
    /// Those of [`Source::load_of_classes`], as far as files and labels go.
    pub fn count_of_classes(
        &self,
        split: Split,
        options: &LoadOptions,
        classes: &[String],
    ) -> Result<Vec<usize>> {
        let (mut labels, own) = self.labels(split, options)?;
        ClassMap::new(&own, classes).apply(&self.to_string(), &mut labels)?;
        let mut counts = vec![0; classes.len()];
        for label in labels {
            counts[label as usize] += 1;
        }
        Ok(counts)
    }

    /// The labels of a split and the classes that it names.
    fn labels(&self, split: Split, options: &LoadOptions) -> Result<(Vec<u32>, Vec<String>)> {
        match self {
            Self::Cifar100 => Cifar::Hundred.labels(&options.data_dir, split, options.labels),
            Self::Cifar10 => Cifar::Ten.labels(&options.data_dir, split, options.labels),
            Self::Shapes => Ok(shapes::split_labels(split, options.labels)),
            Self::Folder(root) => {
                let FolderFiles { files, classes } =
                    self.image_folder(root, options)?.files(split)?;
                Ok((files.into_iter().map(|(_, label)| label).collect(), classes))
            }
            Self::Shards { .. } => self.shard_folder(options)?.labels(split),
            #[cfg(feature = "hub")]
            Self::Hub { .. } => self.hub_dataset(options).labels(split),
            #[cfg(not(feature = "hub"))]
            Self::Hub { .. } => Err(self.without_hub()),
            Self::Memory(_) => Err(self.only_in_memory()),
        }
    }

    /// Looks whether both splits are there and have sizes that fit, without reading pictures, so that a long
    /// training does not fail at its end for want of a test file. The
    /// Hub is asked for the list of files only.
    ///
    /// # Errors
    /// The one that loading would end in, as far as it can be told.
    pub fn check(&self, options: &LoadOptions) -> Result<()> {
        match self {
            Self::Cifar100 => Cifar::Hundred.check(&options.data_dir),
            Self::Cifar10 => {
                options.labels.require_fine(self)?;
                Cifar::Ten.check(&options.data_dir)
            }
            Self::Shapes => Ok(()),
            Self::Folder(root) => self.image_folder(root, options)?.check(),
            Self::Shards { .. } => self.shard_folder(options).map(|_| ()),
            #[cfg(feature = "hub")]
            Self::Hub { .. } => self.hub_dataset(options).check(),
            #[cfg(not(feature = "hub"))]
            Self::Hub { .. } => Err(self.without_hub()),
            Self::Memory(_) => Err(self.only_in_memory()),
        }
    }

    /// The number of pictures in a split, told without reading any, so that a folder's broken ones are counted too; none of
    /// shards and of the Hub's, where only reading would tell.
    ///
    /// # Errors
    /// Those of [`Source::check`].
    pub fn count(&self, split: Split, options: &LoadOptions) -> Result<Option<usize>> {
        match self {
            Self::Cifar100 => Cifar::Hundred.count(&options.data_dir, split).map(Some),
            Self::Cifar10 => Cifar::Ten.count(&options.data_dir, split).map(Some),
            Self::Shapes => Ok(Some(shapes::count(split))),
            Self::Folder(root) => self.image_folder(root, options)?.count(split).map(Some),
            Self::Shards { .. } | Self::Hub { .. } | Self::Memory(_) => Ok(None),
        }
    }

    /// The number of classes, told without reading any image; none of shards and of the Hub's, where only reading would tell.
    ///
    /// # Errors
    /// Those of [`Source::check`] for a folder.
    pub fn class_count(&self, options: &LoadOptions) -> Result<Option<usize>> {
        match self {
            Self::Cifar100 if options.labels == Labels::Coarse => Ok(Some(20)),
            Self::Cifar100 => Ok(Some(100)),
            Self::Cifar10 => Ok(Some(10)),
            Self::Shapes => Ok(Some(shapes::class_count(options.labels))),
            Self::Folder(root) => {
                let folder = self.image_folder(root, options)?;
                Ok(Some(folder.files(Split::Train)?.classes.len()))
            }
            Self::Shards { .. } | Self::Hub { .. } | Self::Memory(_) => Ok(None),
        }
    }

    /// Whether the data set's files are on this machine, whole or not; never of the Hub's, whose cache is not
    /// searched.
    pub fn is_present(&self, data_dir: &Path) -> bool {
        match self {
            Self::Cifar100 => Cifar::Hundred.is_present(data_dir),
            Self::Cifar10 => Cifar::Ten.is_present(data_dir),
            Self::Shapes => true,
            Self::Folder(root) | Self::Shards { root, .. } => root.is_dir(),
            Self::Hub { .. } | Self::Memory(_) => false,
        }
    }

    fn image_folder(&self, root: &Path, options: &LoadOptions) -> Result<ImageFolder> {
        options.labels.require_fine(self)?;
        Ok(ImageFolder {
            root: root.to_owned(),
            shorter_side: options.shorter_side,
            test_fraction: options.test_fraction,
            seed: options.seed,
            watcher: options.watcher.clone(),
            broken: options.broken,
            listing: options.listing.clone(),
        })
    }

    /// The shards that the source names.
    ///
    /// # Errors
    /// When there are none, the source is another, or the labels asked for are coarse.
    pub fn shard_folder(&self, options: &LoadOptions) -> Result<ShardFolder> {
        options.labels.require_fine(self)?;
        match self {
            Self::Shards {
                root,
                image_column,
                label_column,
            } => Ok(ShardFolder::open(root)?
                .with_columns(image_column.as_deref(), label_column.as_deref())),
            _ => Err(DataError::InvalidOption {
                option: "dataset",
                expected: "shards:DIR".into(),
                found: self.to_string(),
            }),
        }
    }

    #[cfg(feature = "hub")]
    fn hub_dataset(&self, options: &LoadOptions) -> HubDataset {
        let (repo, image_column, label_column) = match self {
            Self::Hub {
                repo,
                image_column,
                label_column,
            } => (repo.as_str(), image_column.clone(), label_column.clone()),
            _ => ("", None, None), // refused as the name of a repository
        };
        HubDataset {
            image_column,
            label_column,
            labels: options.labels,
            seed: options.seed,
            broken: options.broken,
            ..HubDataset::new(repo)
        }
        .watched(options.watcher.clone())
    }

    fn only_in_memory(&self) -> DataError {
        DataError::InvalidOption {
            option: "dataset",
            expected: "a data set that can be read; name one with --dataset".into(),
            found: format!("{self}, which another program had in memory"),
        }
    }

    #[cfg(not(feature = "hub"))]
    fn without_hub(&self) -> DataError {
        DataError::NotBuiltIn {
            what: format!("data set {self}"),
            feature: "hub",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(data_dir: &Path, labels: Labels) -> LoadOptions {
        LoadOptions {
            data_dir: data_dir.to_owned(),
            labels,
            ..LoadOptions::default()
        }
    }

    #[test]
    fn shapes_are_always_there() {
        let nowhere = Path::new("nowhere");
        assert!(Source::Shapes.is_present(nowhere));
        Source::Shapes
            .check(&options(nowhere, Labels::Coarse))
            .unwrap();
    }

    #[test]
    fn a_directory_is_called_by_its_real_name() {
        let root = tempfile::tempdir().unwrap();
        let photos = root.path().join("photos");
        std::fs::create_dir_all(photos.join("cat")).unwrap();
        let name = |path: PathBuf| Source::Folder(path).short_name();
        assert_eq!(name(photos.clone()), "photos");
        assert_eq!(name(photos.join(".")), "photos");
        assert_eq!(name(photos.join("cat/..")), "photos");
        assert_eq!(name(PathBuf::from("nowhere/pets/")), "pets");
        assert_eq!(Source::Cifar100.short_name(), "cifar100");
        let hub: Source = "hf:me/pets".parse().unwrap();
        assert_eq!(hub.short_name(), "pets");
        let (one, other) = (
            Source::Folder(photos.clone()),
            Source::Folder(photos.join(".")),
        );
        assert!(one.is_same_place(&other));
        let shards: Source = format!("shards:{}", photos.display()).parse().unwrap();
        assert!(!one.is_same_place(&shards));
    }

    #[test]
    fn a_split_has_as_many_pictures_as_were_counted() {
        let options = options(Path::new("nowhere"), Labels::Fine);
        let counted = Source::Shapes.count(Split::Test, &options).unwrap();
        let loaded = Source::Shapes.load(Split::Test, &options).unwrap();
        assert_eq!(counted, Some(loaded.len()));
    }

    #[test]
    fn images_are_counted_by_class_without_reading_any() {
        let options = options(Path::new("nowhere"), Labels::Coarse);
        let mut classes = Source::Shapes.labels(Split::Test, &options).unwrap().1;
        classes.reverse();
        classes.push("none of these".into());
        let counts = Source::Shapes.count_of_classes(Split::Test, &options, &classes);
        assert_eq!(counts.unwrap(), [400, 400, 400, 400, 400, 0]);
        let error = Source::Shapes.count_of_classes(Split::Test, &options, &classes[1..]);
        assert!(
            matches!(error, Err(DataError::OtherClasses { .. })),
            "{error:?}"
        );
        let loaded = Source::Shapes
            .load_of_classes(Split::Test, &options, &classes)
            .unwrap();
        assert_eq!((loaded.labels()[0], loaded.classes()), (4, &classes[..]));
    }

    #[test]
    fn a_data_set_has_as_many_classes_as_were_counted() {
        for labels in [Labels::Fine, Labels::Coarse] {
            let options = options(Path::new("nowhere"), labels);
            let counted = Source::Shapes.class_count(&options).unwrap();
            let loaded = Source::Shapes.load(Split::Test, &options).unwrap();
            assert_eq!(counted, Some(loaded.classes().len()));
        }
        let root = tempfile::tempdir().unwrap();
        for file in ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"] {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let folder = Source::Folder(root.path().into());
        let counted = folder.class_count(&LoadOptions::default()).unwrap();
        assert_eq!(counted, Some(2));
    }

    #[test]
    fn absent_data_is_missing() {
        let empty = tempfile::tempdir().unwrap();
        let folder = Source::Folder(empty.path().join("photos"));
        for source in [Source::Cifar100, Source::Cifar10, folder] {
            assert!(!source.is_present(empty.path()));
            let options = options(empty.path(), Labels::Fine);
            for error in [
                source.check(&options).unwrap_err(),
                source.load(Split::Test, &options).unwrap_err(),
            ] {
                assert!(matches!(error, DataError::Missing { .. }), "{error}");
            }
        }
    }

    #[test]
    fn a_data_set_in_another_programs_memory_cannot_be_read() {
        let source = Source::Memory("blobs".into());
        let options = LoadOptions::default();
        assert!(!source.is_present(Path::new(".")));
        for error in [
            source.check(&options).unwrap_err(),
            source.load(Split::Train, &options).unwrap_err(),
        ] {
            let message = error.to_string();
            let expected = "dataset: expected a data set that can be read; name one with --dataset, found memory:blobs, which another \
                            program had in memory";
            assert_eq!(message, expected);
        }
    }

    #[test]
    fn coarse_labels_are_refused_where_there_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let options = options(dir.path(), Labels::Coarse);
        for source in [Source::Cifar10, Source::Folder(dir.path().into())] {
            for error in [
                source.check(&options).unwrap_err(),
                source.load(Split::Train, &options).unwrap_err(),
            ] {
                let message = error.to_string();
                let expected = format!(
                    "labels: expected fine, the only labels that {source} has, found coarse"
                );
                assert_eq!(message, expected);
            }
        }
    }

    #[cfg(not(feature = "hub"))]
    #[test]
    fn the_hub_needs_its_feature() {
        let source: Source = "hf:uoft-cs/cifar10".parse().unwrap();
        let options = LoadOptions::default();
        for error in [
            source.check(&options).unwrap_err(),
            source.load(Split::Train, &options).unwrap_err(),
        ] {
            assert!(error.to_string().contains("needs the Cargo feature `hub`"));
        }
    }
}
