//! Finds class folders and their images without opening any.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::dataset::class_names::require_few_enough;
use crate::error::{DataError, Result};
use crate::formats::image_folder::files::Walked;
use crate::formats::image_folder::skipped::PassedOver;

/// The default name of the directory of training runs.
const RUNS: &str = "runs";

/// A class folder and its images, sorted by path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Class {
    pub(crate) name: String,
    pub(crate) images: Vec<PathBuf>,
}

/// Reads the classes in folders, sorted by path. Directories of training runs are skipped.
///
/// # Errors
/// [`DataError::EmptyClass`]; [`DataError::Inconsistent`] when two folder names that are not UTF-8
/// look alike.
pub(crate) fn read_classes(
    folders: Vec<PathBuf>,
    passed_over: &mut PassedOver,
) -> Result<Vec<Class>> {
    if let Some(root) = folders.first().and_then(|folder| folder.parent()) {
        require_few_enough(root, folders.len())?;
    }
    let mut classes = Vec::new();
    for folder in folders {
        let walked = Walked::all(&folder)?;
        let name = name_of(&folder);
        if walked.images.is_empty() {
            if walked.passed_over.has_runs() || name == RUNS {
                passed_over.add_run(folder);
                continue;
            }
            return Err(DataError::EmptyClass {
                path: folder,
                found: walked.passed_over.describe_files(),
            });
        }
        let (count, shown) = (walked.images.len(), folder.display());
        tracing::debug!("{shown}: {count} files with an image extension");
        passed_over.join(walked.passed_over);
        classes.push((folder, walked.images));
    }
    require_other_names(classes.iter().map(|(folder, _)| folder.as_path()))?;
    let class = |(folder, images): (PathBuf, _)| Class {
        name: name_of(&folder),
        images,
    };
    Ok(classes.into_iter().map(class).collect())
}

/// Returns a folder's name; bytes that are not UTF-8 become replacement characters.
pub(crate) fn name_of(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Checks that class names are unique.
fn require_other_names<'a>(folders: impl Iterator<Item = &'a Path>) -> Result<()> {
    let mut names: BTreeMap<String, &Path> = BTreeMap::new();
    for folder in folders {
        let Some(before) = names.insert(name_of(folder), folder) else {
            continue;
        };
        let bytes = |folder: &Path| {
            let name = folder.file_name().unwrap_or_default().as_encoded_bytes();
            format!("\"{}\"", name.escape_ascii())
        };
        let parent = folder.parent().unwrap_or(folder);
        return Err(DataError::Inconsistent {
            name: parent.display().to_string(),
            expected: "class folders with distinct names in UTF-8; rename them".into(),
            found: format!(
                "{} and {}, which look the same",
                bytes(before),
                bytes(folder)
            ),
        });
    }
    Ok(())
}
