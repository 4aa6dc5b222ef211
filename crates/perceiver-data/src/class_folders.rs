//! Finding class folders and the picture files in them, without opening any.

use std::path::{Path, PathBuf};

use crate::error::{DataError, Result};
use crate::picture_files::{picture_files, subfolders};

/// A class folder and the pictures in it, sorted by path.
pub(crate) struct Class {
    pub(crate) name: String,
    pub(crate) pictures: Vec<PathBuf>,
}

/// Whether `folder` can be listed and has a visible folder in it.
pub(crate) fn has_subfolder(folder: &Path) -> bool {
    subfolders(folder).is_ok_and(|folders| !folders.is_empty())
}

/// The names of the class folders in `root`, sorted; at least one.
pub(crate) fn class_names(root: &Path) -> Result<Vec<String>> {
    Ok(class_folders(root)?.iter().map(|path| name(path)).collect())
}

/// The classes in `root`, sorted by name; each has a picture.
pub(crate) fn read_classes(root: &Path) -> Result<Vec<Class>> {
    class_folders(root)?
        .into_iter()
        .map(|folder| {
            let pictures = picture_files(&folder)?;
            if pictures.is_empty() {
                return Err(DataError::EmptyClass { path: folder });
            }
            Ok(Class {
                name: name(&folder),
                pictures,
            })
        })
        .collect()
}

fn class_folders(root: &Path) -> Result<Vec<PathBuf>> {
    let folders = subfolders(root)?;
    if folders.is_empty() {
        return Err(DataError::Missing {
            path: root.join("<class>"),
            expected: "a folder of pictures for every class".into(),
        });
    }
    Ok(folders)
}

fn name(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
