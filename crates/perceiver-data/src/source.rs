//! Data sets by name: `cifar100`, `folder:photos`, `hf:uoft-cs/cifar10`.

pub(crate) mod image_sizes;
pub(crate) mod map_dataset;
pub(crate) mod parse;
pub(crate) mod samples;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::dataset::class_names::ClassMap;
use crate::dataset::labels::Labels;
use crate::dataset::{Dataset, Split};
use crate::error::{DataError, Result};
use crate::formats::cifar::Cifar;
#[cfg(feature = "hub")]
use crate::formats::hub::HubDataset;
use crate::formats::image_folder::listing::FolderListing;
use crate::formats::image_folder::{FolderFiles, ImageFolder};
use crate::formats::load_options::LoadOptions;
use crate::formats::shapes;
use crate::formats::shards::ShardFolder;

/// The origin of a data set. Its text form is used in configuration files and flags.
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
    /// `shapes`: the embedded data set, generated on demand.
    Shapes,
    /// `folder:DIR`: image files in class folders.
    Folder(PathBuf),
    /// `shards:DIR[,image=COLUMN][,label=COLUMN]`: shards, which training streams; see
    /// [`ShardFolder`].
    Shards {
        /// The directory.
        root: PathBuf,
        /// The image column of Parquet files; guessed if `None`.
        image_column: Option<String>,
        /// The label column of Parquet files; guessed if `None`.
        label_column: Option<String>,
    },
    /// `hf:USER/NAME[:IMAGE_COLUMN:LABEL_COLUMN]`: a data set of the Hugging Face Hub. Needs the
    /// crate's feature `hub`.
    Hub {
        /// The repository, `USER/NAME`.
        repo: String,
        /// The image column; guessed if `None`.
        image_column: Option<String>,
        /// The label column; guessed if `None`.
        label_column: Option<String>,
    },
    /// `memory:NAME`: a data set that was in a program's memory, by its name. It cannot be loaded
    /// again.
    Memory(String),
}

impl Source {
    /// Lists the current files of a folder, for [`LoadOptions::listing`], so that a long run is
    /// tested on the files present at its start. `None` for other sources.
    ///
    /// # Errors
    /// Those of [`FolderListing::read`].
    pub fn listing(&self, options: &LoadOptions) -> Result<Option<Arc<FolderListing>>> {
        match self {
            Self::Folder(root) => self.image_folder(root, options)?.listing().map(Some),
            _ => Ok(None),
        }
    }

    /// Reads all images of a source without splits, as the training part and the test part that
    /// would be drawn. `None` for a source with splits.
    ///
    /// # Errors
    /// As for [`Source::load`], except for classes with too few images or no readable one.
    pub fn load_parts(&self, options: &LoadOptions) -> Result<Option<[Dataset; 2]>> {
        match self {
            Self::Folder(root) => self.image_folder(root, options)?.load_parts(),
            _ => Ok(None),
        }
    }

    /// Whether two sources are equal, or are the same directory under different paths.
    pub fn is_same_location(&self, other: &Self) -> bool {
        let real = |path: &Path| path.canonicalize().ok();
        let same = |a: &Path, b: &Path| real(a).is_some_and(|a| Some(a) == real(b));
        match (self, other) {
            (Self::Folder(a), Self::Folder(b))
            | (Self::Shards { root: a, .. }, Self::Shards { root: b, .. }) => a == b || same(a, b),
            _ => self == other,
        }
    }

    /// Returns a short name for display and for run directories; for a directory, including `.`,
    /// its real name.
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

    /// Reads a split. A missing validation split is empty.
    ///
    /// # Errors
    /// When the data, or the options for this source, are invalid.
    pub fn load(&self, split: Split, options: &LoadOptions) -> Result<Dataset> {
        self.load_split(split, options)
            .map(|data| limited(data, options))
    }

    fn load_split(&self, split: Split, options: &LoadOptions) -> Result<Dataset> {
        match self {
            Self::Cifar100 => Cifar::Hundred.read(&options.data_dir, split, options.labels),
            Self::Cifar10 => Cifar::Ten.read(&options.data_dir, split, options.labels),
            Self::Shapes => {
                let limit = options.limit.unwrap_or(usize::MAX);
                shapes::first_shapes(split, options.labels, limit)
            }
            Self::Folder(root) => self.image_folder(root, options)?.load(split),
            Self::Shards { .. } => self.shard_folder(options)?.load(split, options),
            #[cfg(feature = "hub")]
            Self::Hub { .. } => self.hub_dataset(options).load(split, options.shorter_side),
            #[cfg(not(feature = "hub"))]
            Self::Hub { .. } => Err(self.without_hub()),
            Self::Memory(_) => Err(self.only_in_memory()),
        }
    }

    /// Reads a split as [`Source::load`] does, with labels matched by name to `classes`: those of
    /// the training split, or of a model.
    ///
    /// # Errors
    /// As for [`Source::load`], and [`DataError::OtherClasses`] for images of a class that is not
    /// among `classes`.
    pub fn load_of_classes(
        &self,
        split: Split,
        options: &LoadOptions,
        classes: &[String],
    ) -> Result<Dataset> {
        match self {
            #[cfg(feature = "hub")]
            Self::Hub { .. } => {
                let dataset = self.hub_dataset(options);
                let data = dataset.load_of_classes(split, options.shorter_side, classes)?;
                Ok(limited(data, options))
            }
            _ => self.load(split, options)?.with_classes(classes),
        }
    }

    /// Counts the images of each of `classes` in a split, matched by name, from the labels alone. A
    /// folder's broken images are counted too. Files on the Hub are downloaded for it.
    ///
    /// It finds errors of a test split before training.
    ///
    /// # Errors
    /// Those of [`Source::load_of_classes`] that concern files and labels.
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

    /// Returns the labels of a split and the class names they index.
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

    /// Checks that the training and test splits exist with plausible sizes, without reading images,
    /// so that a long training run does not fail at its end because a test file is missing. Of the
    /// Hub, only the list of files is requested.
    ///
    /// # Errors
    /// Those of [`Source::load`] that can be found this way.
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

    /// Returns the number of images in a split without reading any, so a folder's broken images are
    /// counted too. `None` for shards and the Hub, which would have to be read.
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

    /// Returns the number of classes without reading any image. `None` for shards and the Hub,
    /// which would have to be read.
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

    /// Whether the data set's files are on this machine, complete or not; always false for the Hub,
    /// whose cache is not searched.
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

    /// Opens the source's shards.
    ///
    /// # Errors
    /// When there are none, the source is of another kind, or coarse labels are requested.
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
            _ => ("", None, None), // rejected as a repository name
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
            expected: "a data set that can be read; choose one with --dataset".into(),
            found: format!("{self}, an in-memory data set of another program"),
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

/// Keeps the images that `options` ask for.
fn limited(mut data: Dataset, options: &LoadOptions) -> Dataset {
    if let Some(limit) = options.limit {
        data.truncate(limit);
    }
    data
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
    fn shapes_are_always_available() {
        let nowhere = Path::new("nowhere");
        assert!(Source::Shapes.is_present(nowhere));
        Source::Shapes
            .check(&options(nowhere, Labels::Coarse))
            .unwrap();
    }

    #[test]
    fn the_short_name_of_a_directory_is_its_real_name() {
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
        assert!(one.is_same_location(&other));
        let shards: Source = format!("shards:{}", photos.display()).parse().unwrap();
        assert!(!one.is_same_location(&shards));
    }

    #[test]
    fn image_counts_match_the_loaded_splits() {
        let options = options(Path::new("nowhere"), Labels::Fine);
        let counted = Source::Shapes.count(Split::Test, &options).unwrap();
        let loaded = Source::Shapes.load(Split::Test, &options).unwrap();
        assert_eq!(counted, Some(loaded.len()));
    }

    #[test]
    fn images_are_counted_by_class_without_decoding() {
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
    fn class_counts_match_the_loaded_data_sets() {
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
    fn in_memory_data_of_another_program_is_an_error() {
        let source = Source::Memory("blobs".into());
        let options = LoadOptions::default();
        assert!(!source.is_present(Path::new(".")));
        for error in [
            source.check(&options).unwrap_err(),
            source.load(Split::Train, &options).unwrap_err(),
        ] {
            let message = error.to_string();
            let expected = "dataset: expected a data set that can be read; choose one with --dataset, found memory:blobs, an in-memory \
                            data set of another program";
            assert_eq!(message, expected);
        }
    }

    #[test]
    fn coarse_labels_are_rejected_if_there_are_none() {
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
