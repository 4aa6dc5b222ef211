//! Finding class folders and the picture files in them, without opening any.

use std::io;
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use crate::error::{DataError, Result};

/// What picture files are called, in any mixture of upper and lower case.
const EXTENSIONS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

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
            let pictures = pictures(&folder)?;
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

fn subfolders(folder: &Path) -> Result<Vec<PathBuf>> {
    let walk = WalkDir::new(folder).min_depth(1).max_depth(1);
    let mut folders = visible_entries(walk, folder)?;
    folders.retain(|entry| entry.file_type().is_dir());
    Ok(folders.into_iter().map(DirEntry::into_path).collect())
}

fn pictures(class: &Path) -> Result<Vec<PathBuf>> {
    let mut files = visible_entries(WalkDir::new(class), class)?;
    files.retain(|entry| entry.file_type().is_file());
    let (pictures, others): (Vec<_>, Vec<_>) = files
        .into_iter()
        .map(DirEntry::into_path)
        .partition(|path| is_called_picture(path));
    for other in others {
        tracing::debug!("{} is not called a picture: passed over", other.display());
    }
    Ok(pictures)
}

fn visible_entries(walk: WalkDir, root: &Path) -> Result<Vec<DirEntry>> {
    let is_visible = |entry: &DirEntry| {
        entry.depth() == 0 || !entry.file_name().as_encoded_bytes().starts_with(b".")
    };
    walk.follow_links(true)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(is_visible)
        .map(|entry| entry.map_err(|error| unreadable(root, error)))
        .collect()
}

fn is_called_picture(path: &Path) -> bool {
    path.extension().is_some_and(|extension| {
        EXTENSIONS
            .iter()
            .any(|picture| extension.eq_ignore_ascii_case(picture))
    })
}

fn name(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn unreadable(root: &Path, error: walkdir::Error) -> DataError {
    let path = error.path().unwrap_or(root).to_owned();
    let source = io::Error::from(error);
    if source.kind() == io::ErrorKind::NotFound {
        return DataError::Missing {
            path,
            expected: "a folder of class folders".into(),
        };
    }
    DataError::Io {
        action: "list",
        path,
        source,
    }
}
