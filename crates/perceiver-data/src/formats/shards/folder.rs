//! Finds the shards of each split in a folder, and their class names.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::dataset::class_names::{ClassMap, read_class_names};
use crate::dataset::labels::require_dense;
use crate::dataset::part::Part;
use crate::dataset::splits::{
    TEST, TRAIN, VALIDATION, split_named, split_of_stem, split_within_stem,
};
use crate::dataset::{Dataset, Split, TestSplit};
use crate::error::{DataError, Result};
use crate::formats::file_labels::{FileClasses, FileLabels, join};
use crate::formats::load_options::LoadOptions;
use crate::formats::shards::columns::ShardColumns;
use crate::formats::shards::compression;
use crate::formats::shards::dataset::ShardedDataset;
use crate::formats::shards::shard::{Indexed, Locations, Shard, is_shard};
use crate::formats::shards::survey::Survey;
use crate::formats::shards::unpaired_files::UnpairedFiles;

/// The file of class names.
pub(super) const CLASSES: &str = "classes.txt";

/// A folder of shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardFolder {
    root: PathBuf,
    train: Vec<PathBuf>,
    test: Vec<PathBuf>,
    validation: Vec<PathBuf>,
    /// Shards that belong to no split.
    others: Vec<PathBuf>,
    /// The names in [`CLASSES`].
    classes: Option<Vec<String>>,
    columns: ShardColumns,
}

impl ShardFolder {
    /// Lists the shards below `root`. The first word of a file name, as in `train-0000.tar`, or the
    /// folder determines the split; if that finds no shard of a split, any word does, as in
    /// `imagenet-train-0000.tar`.
    ///
    /// # Errors
    /// [`DataError::Missing`] without the folder, or without shards for training and testing;
    /// [`DataError::Shard`] when these are compressed, or `classes.txt` has an empty line or a
    /// repeated name.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        let mut files = shards_below(&root)?;
        files.sort();
        require_uncompressed(&root, &files)?;
        files.retain(|path| compression::by_name(path).is_none());
        let [train, mut test, mut validation] =
            [TRAIN, TEST, VALIDATION].map(|words| files_of(&root, &mut files, words));
        if test.is_empty() {
            std::mem::swap(&mut test, &mut validation);
        }
        let folder = Self {
            classes: listed_classes(&root.join(CLASSES))?,
            root,
            train,
            test,
            validation,
            others: files,
            columns: ShardColumns::default(),
        };
        folder.require_both_splits()?;
        Ok(folder)
    }

    /// Sets the column names of Parquet files; `None` is guessed.
    #[must_use]
    pub fn with_columns(mut self, image: Option<&str>, label: Option<&str>) -> Self {
        self.columns = ShardColumns {
            image: image.map(Into::into),
            label: label.map(Into::into),
        };
        self
    }

    fn require_both_splits(&self) -> Result<()> {
        let splits = [(&self.train, "train"), (&self.test, "test")];
        let Some((_, split)) = splits.into_iter().find(|(files, _)| files.is_empty()) else {
            return Ok(());
        };
        let others = if self.others.is_empty() {
            String::new()
        } else {
            format!("; found {}", self.describe_others())
        };
        Err(DataError::Missing {
            path: self.root.join(format!("{split}-*.tar")),
            expected: format!("shards of the {split} split, .tar or .parquet{others}"),
        })
    }

    /// Describes the shards that belong to no split: their number and the first few.
    fn describe_others(&self) -> String {
        let names = self.others.iter().take(3).map(|path| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().into_owned()
        });
        let names = names.collect::<Vec<_>>().join(", ");
        match self.others.len() {
            1 => format!("1 shard of no split, {names}"),
            count => format!("{count} shards of no split, such as {names}"),
        }
    }

    /// Returns the display name of the data set.
    pub fn name(&self) -> String {
        format!("shards:{}", self.root.display())
    }

    /// Whether there are validation shards in addition to test shards.
    pub fn has_validation(&self) -> bool {
        !self.validation.is_empty()
    }

    /// Indexes a split: reads locations and labels of its images. Broken images are included until
    /// removed by a [`Survey`](crate::Survey). Images are downscaled to `shorter_side` when
    /// decoded. Classes are those in `classes.txt`, otherwise those found in the training shards.
    ///
    /// # Errors
    /// [`DataError::Shard`], [`DataError::Parquet`], [`DataError::Column`] and
    /// [`DataError::LabelOutOfRange`], with the file; [`DataError::Inconsistent`] when files store
    /// classes in different ways, or no image of a class belongs to a sample;
    /// [`DataError::OtherClasses`] for images of a class that is not listed;
    /// [`DataError::SparseLabels`].
    pub fn split(&self, split: Split, shorter_side: usize) -> Result<ShardedDataset> {
        if split != Split::Train {
            let classes = self.labelled(&self.train)?.classes;
            return self.split_of_classes(split, shorter_side, &classes);
        }
        if !self.others.is_empty() {
            tracing::warn!("{}: skipped {}", self.name(), self.describe_others());
        }
        self.index(&self.train, shorter_side, None)
    }

    /// Indexes a split as [`ShardFolder::split`] does, with labels matched by name to `classes`,
    /// such as a model's.
    ///
    /// # Errors
    /// As for [`ShardFolder::split`].
    pub fn split_of_classes(
        &self,
        split: Split,
        shorter_side: usize,
        classes: &[String],
    ) -> Result<ShardedDataset> {
        let dataset = self.index(self.files(split), shorter_side, Some(classes))?;
        Ok(match split {
            Split::Test if self.is_tested_by_validation() => {
                dataset.with_test_split(TestSplit::Validation)
            }
            _ => dataset,
        })
    }

    /// Returns the labels of a split, and the classes found in its files.
    pub(crate) fn labels(&self, split: Split) -> Result<(Vec<u32>, Vec<String>)> {
        let Labelled { files, classes } = self.labelled(self.files(split))?;
        let labels = files.into_iter().flat_map(|(labels, _)| labels.labels);
        Ok((labels.collect(), classes))
    }

    fn files(&self, split: Split) -> &[PathBuf] {
        match split {
            Split::Train => &self.train,
            Split::Test => &self.test,
            Split::Validation => &self.validation,
        }
    }

    /// Whether the validation shards stand in for missing test shards.
    pub fn is_tested_by_validation(&self) -> bool {
        let part =
            |path: &PathBuf| split_of_file(&self.root, path).or_else(|| split_within_name(path));
        self.test.first().and_then(part) == Some(VALIDATION)
    }

    /// Reads all images of a split into memory.
    ///
    /// # Errors
    /// Those of [`ShardFolder::split`] and of [`ShardedDataset::surveyed`], and the first broken
    /// image if those are refused.
    pub(crate) fn load(&self, split: Split, options: &LoadOptions) -> Result<Dataset> {
        let dataset = self.split(split, options.shorter_side)?;
        let survey = Survey::of(&dataset, Part::WHOLE, options.broken, &options.watcher)?;
        let dataset = dataset.surveyed(&survey)?;
        let all: Vec<usize> = (0..dataset.len()).collect();
        let decoded = all.par_iter().map(|&index| dataset.image(index));
        Dataset::new(
            dataset.name(),
            decoded.collect::<Result<_>>()?,
            all.iter().map(|&index| dataset.label(index)).collect(),
            dataset.classes().to_vec(),
        )?
        .with_image_names(dataset.image_names()?)
    }

    /// Indexes the images in files; labels are matched by name to `wanted`, if given.
    fn index(
        &self,
        files: &[PathBuf],
        shorter_side: usize,
        wanted: Option<&[String]>,
    ) -> Result<ShardedDataset> {
        let Labelled { mut files, classes } = self.labelled(files)?;
        let classes = match wanted {
            None => classes,
            Some(wanted) => {
                let map = ClassMap::new(&classes, wanted);
                for (labels, _) in &mut files {
                    map.apply(&labels.path.display().to_string(), &mut labels.labels)?;
                }
                wanted.to_vec()
            }
        };
        let shards = files.into_iter();
        let shards = shards.map(|(labels, locations)| Shard::new(labels, locations));
        let named = (self.name(), self.root.clone());
        Ok(ShardedDataset::new(
            named,
            classes,
            shards.collect(),
            shorter_side,
        ))
    }

    /// Indexes files and relabels them by the classes in `classes.txt` or in the files.
    fn labelled(&self, files: &[PathBuf]) -> Result<Labelled> {
        let indexed = files
            .par_iter()
            .map(|path| Indexed::open(path, &self.columns));
        let indexed: Vec<Indexed> = indexed.collect::<Result<_>>()?;
        let (mut labels, mut locations) = (Vec::new(), Vec::new());
        let mut unpaired = UnpairedFiles::default();
        for file in indexed {
            labels.push(file.labels);
            locations.push(file.locations);
            unpaired.join(file.unpaired);
        }
        let classes = join(&mut labels, self.classes.as_deref())?;
        let of_files: Vec<&[u32]> = labels.iter().map(|file| &file.labels[..]).collect();
        unpaired.report(&self.name(), &classes, &of_files)?;
        let by_number = |file: &FileLabels| file.classes == FileClasses::Numbers;
        if files == self.train && self.classes.is_none() && labels.iter().all(by_number) {
            require_dense(&self.root, of_files.iter().copied().flatten().copied())?;
        }
        Ok(Labelled {
            files: labels.into_iter().zip(locations).collect(),
            classes,
        })
    }
}

/// Indexed files with their common classes.
struct Labelled {
    files: Vec<(FileLabels, Locations)>,
    classes: Vec<String>,
}

/// Removes the files of a split from `files` and returns them: those whose own or folder's name
/// begins with one of `words`, or otherwise those with one of them anywhere in the name.
fn files_of(root: &Path, files: &mut Vec<PathBuf>, words: &'static [&'static str]) -> Vec<PathBuf> {
    let mut take = |belongs: &dyn Fn(&Path) -> bool| {
        let belongs = |path: &mut PathBuf| belongs(path);
        files.extract_if(.., belongs).collect::<Vec<PathBuf>>()
    };
    let begins = take(&|path| split_of_file(root, path) == Some(words));
    if begins.is_empty() {
        take(&|path| split_of_file(root, path).is_none() && split_within_name(path) == Some(words))
    } else {
        begins
    }
}

/// Returns an error for compressed shards, unless they have been unpacked next to themselves.
fn require_uncompressed(root: &Path, files: &[PathBuf]) -> Result<()> {
    let compressed = files
        .iter()
        .filter_map(|path| Some((path, compression::by_name(path)?)));
    for (path, compression) in compressed {
        let unpacked = compression::unpacked(path);
        let is_of_split = split_of_file(root, path)
            .or_else(|| split_within_name(path))
            .is_some();
        if is_of_split && !files.contains(&unpacked) {
            return Err(DataError::Shard {
                path: path.clone(),
                expected: compression::EXPECTED.to_owned(),
                found: compression::describe(compression),
            });
        }
    }
    Ok(())
}

/// Returns the split named anywhere in a file name.
fn split_within_name(path: &Path) -> Option<&'static [&'static str]> {
    split_within_stem(path.file_stem()?.to_str()?)
}

/// Returns the split of a file, by the start of its own name or by its folder's.
fn split_of_file(root: &Path, path: &Path) -> Option<&'static [&'static str]> {
    let stem = path.file_stem()?.to_str()?;
    let folder = path.strip_prefix(root).ok()?.parent()?;
    split_of_stem(stem).or_else(|| split_named(folder.file_name()?.to_str()?))
}

/// Lists the shards in `root` and its subfolders.
fn shards_below(root: &Path) -> Result<Vec<PathBuf>> {
    let mut shards = Vec::new();
    for path in entries(root)? {
        if path.is_dir() {
            shards.extend(entries(&path)?.into_iter().filter(|path| is_shard(path)));
        } else if is_shard(&path) {
            shards.push(path);
        }
    }
    Ok(shards)
}

/// Lists the visible entries of a folder.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => DataError::Missing {
            path: folder.to_owned(),
            expected: "a folder of shards".to_owned(),
        },
        _ => DataError::Io {
            action: "list",
            path: folder.to_owned(),
            source,
        },
    };
    let is_hidden = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
    };
    let paths = fs::read_dir(folder)
        .map_err(failed)?
        .map(|entry| Ok(entry?.path()))
        .filter(|path| !path.as_ref().is_ok_and(is_hidden));
    paths.collect::<io::Result<_>>().map_err(failed)
}

/// Reads the names in the file at `path`, one per line; `None` without the file.
fn listed_classes(path: &Path) -> Result<Option<Vec<String>>> {
    match read_class_names(path) {
        Err(DataError::Missing { .. }) => Ok(None),
        names => names.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(root: &Path, files: &[&str]) {
        for file in files {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
    }

    #[test]
    fn splits_are_recognized_by_the_names_of_files_and_folders() {
        let root = tempfile::tempdir().unwrap();
        let files = [
            "train-00001.tar",
            "train-00000.tar",
            "val/b.tar",
            "test/0000.parquet",
            "other-0.tar",
            "train-2.txt",
            ".train-3.tar",
        ];
        touch(root.path(), &files);
        let folder = ShardFolder::open(root.path()).unwrap();
        let paths = |names: &[&str]| {
            names
                .iter()
                .map(|n| root.path().join(n))
                .collect::<Vec<_>>()
        };
        assert_eq!(folder.train, paths(&["train-00000.tar", "train-00001.tar"]));
        assert_eq!(folder.validation, paths(&["val/b.tar"]));
        assert_eq!(folder.test, paths(&["test/0000.parquet"]));
    }

    #[test]
    fn validation_shards_stand_in_for_missing_test_shards() {
        let root = tempfile::tempdir().unwrap();
        touch(root.path(), &["train-0.tar", "validation-0.tar"]);
        let folder = ShardFolder::open(root.path()).unwrap();
        assert_eq!(folder.test, [root.path().join("validation-0.tar")]);
        assert!(!folder.has_validation());
        assert!(folder.is_tested_by_validation());
    }

    #[test]
    fn errors_name_what_is_missing() {
        let root = tempfile::tempdir().unwrap();
        let message = |root: &Path| ShardFolder::open(root).unwrap_err().to_string();
        let nowhere = message(&root.path().join("nowhere"));
        assert!(nowhere.ends_with("nowhere is missing: expected a folder of shards"));
        touch(root.path(), &["train-0.tar"]);
        let no_test = message(root.path());
        assert!(no_test.contains("test-*.tar is missing: expected shards of the test split"));
    }

    #[test]
    fn splits_are_recognized_anywhere_in_file_names() {
        let root = tempfile::tempdir().unwrap();
        touch(
            root.path(),
            &[
                "imagenet1k-train-0000.tar",
                "imagenet1k_Val_0.tar",
                "notes.tar",
                "set-train-test.tar",
            ],
        );
        let folder = ShardFolder::open(root.path()).unwrap();
        let path = |name| root.path().join(name);
        assert_eq!(folder.train, [path("imagenet1k-train-0000.tar")]);
        assert_eq!(folder.test, [path("imagenet1k_Val_0.tar")]);
        assert_eq!(
            folder.others,
            [path("notes.tar"), path("set-train-test.tar")]
        );
        // A file that begins with a split name takes precedence over others, which have not been
        // part of the split.
        touch(root.path(), &["train-0.tar"]);
        let folder = ShardFolder::open(root.path()).unwrap();
        assert_eq!(folder.train, [path("train-0.tar")]);
        assert_eq!(folder.others.len(), 3);
    }

    #[test]
    fn shards_of_no_split_are_listed_and_compressed_ones_rejected() {
        let root = tempfile::tempdir().unwrap();
        touch(root.path(), &["a.tar", "b.tar", "test-0.tar"]);
        let message = || ShardFolder::open(root.path()).unwrap_err().to_string();
        let no_train = message();
        assert!(no_train.contains("train-*.tar is missing"), "{no_train}");
        assert!(
            no_train.ends_with("found 2 shards of no split, such as a.tar, b.tar"),
            "{no_train}"
        );
        touch(root.path(), &["train-0.tar.gz"]);
        let gzip = message();
        assert!(
            gzip.contains("train-0.tar.gz: expected an uncompressed tar file"),
            "{gzip}"
        );
        assert!(gzip.contains("found one compressed with gzip"), "{gzip}");
        touch(root.path(), &["train-0.tar"]);
        let folder = ShardFolder::open(root.path()).unwrap();
        assert_eq!(folder.train.len(), 1, "what was unpacked is read");
    }
}
