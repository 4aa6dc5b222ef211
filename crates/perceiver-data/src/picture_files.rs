//! The picture files in a folder, and many of them read at once.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use walkdir::{DirEntry, WalkDir};

use crate::error::{DataError, Result};
use crate::image::Image;

/// What picture files are called, in any mixture of upper and lower case.
const EXTENSIONS: [&str; 5] = ["png", "jpg", "jpeg", "webp", "bmp"];

/// The files in `folder`, at any depth, that are called pictures: `.png`, `.jpg`, `.jpeg`, `.webp` and `.bmp`, sorted by path.
///
/// Hidden files and folders are passed over. Symbolic links are followed, except those that lead back to a folder they
/// are in. A link to nothing that is called a picture is one of the files: whoever opens it learns that it is broken.
///
/// # Errors
/// [`DataError::Missing`] when there is no such folder, [`DataError::Io`] when it or a folder in it cannot be listed.
pub fn picture_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let files = visible_entries(WalkDir::new(folder), folder)?;
    let (pictures, others): (Vec<_>, Vec<_>) = files
        .into_iter()
        .filter(|path| path.is_file() || !path.exists())
        .partition(|path| is_called_picture(path));
    for other in others {
        tracing::debug!("{} is not called a picture: passed over", other.display());
    }
    Ok(pictures)
}

/// Reads, decodes and shrinks pictures, in parallel and each for itself, in the order of `paths`. At no time are more of them
/// in memory at full size than there are cores.
pub fn open_all<P: AsRef<Path> + Sync>(paths: &[P], shorter_side: usize) -> Vec<Result<Image>> {
    paths
        .par_iter()
        .map(|path| Ok(Image::open(path.as_ref())?.shrunk_to(shorter_side)))
        .collect()
}

/// The visible folders directly in `folder`, sorted by name.
pub(crate) fn subfolders(folder: &Path) -> Result<Vec<PathBuf>> {
    let walk = WalkDir::new(folder).min_depth(1).max_depth(1);
    let mut folders = visible_entries(walk, folder)?;
    folders.retain(|path| path.is_dir());
    Ok(folders)
}

fn visible_entries(walk: WalkDir, root: &Path) -> Result<Vec<PathBuf>> {
    let is_visible = |entry: &DirEntry| {
        entry.depth() == 0 || !entry.file_name().as_encoded_bytes().starts_with(b".")
    };
    walk.follow_links(true)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|entry| is_visible(entry) && !leads_out_of(root, entry))
        .filter_map(|entry| match entry {
            Ok(entry) => Some(Ok(entry.into_path())),
            Err(error) => passed_over_or_refused(root, error),
        })
        .collect()
}

/// Whether an entry is a link to a folder that `root` is in: what lies there does not belong to `root` alone.
fn leads_out_of(root: &Path, entry: &DirEntry) -> bool {
    let links = entry.depth() > 0 && entry.path_is_symlink() && entry.file_type().is_dir();
    if !links {
        return false;
    }
    let leads_out = match (fs::canonicalize(root), fs::canonicalize(entry.path())) {
        (Ok(root), Ok(target)) => root.starts_with(target),
        _ => false,
    };
    if leads_out {
        tracing::debug!("{} leads back: passed over", entry.path().display());
    }
    leads_out
}

/// What becomes of an entry that cannot be followed: links in circles are passed over, links to nothing are what they
/// are called.
fn passed_over_or_refused(root: &Path, error: walkdir::Error) -> Option<Result<PathBuf>> {
    if error.depth() > 0 {
        let path = error.path().map(Path::to_owned);
        if error.loop_ancestor().is_some() {
            tracing::debug!("{error}: passed over");
            return None;
        }
        if let Some(path) = path.filter(|path| path.is_symlink() && !path.exists()) {
            return Some(Ok(path));
        }
    }
    Some(Err(unreadable(root, error)))
}

fn is_called_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(is_picture_extension)
}

/// Whether files of pictures are called so.
pub(crate) fn is_picture_extension(extension: &str) -> bool {
    EXTENSIONS
        .iter()
        .any(|picture| extension.eq_ignore_ascii_case(picture))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_told_by_their_names_and_sorted() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir_all(path("b/.hidden")).unwrap();
        fs::create_dir_all(path("folder.png")).unwrap();
        for name in [
            "z.JPEG",
            "a.webp",
            "b/c.bmp",
            "b/.hidden/d.png",
            ".e.png",
            "f.txt",
            "png",
        ] {
            fs::write(path(name), "").unwrap();
        }
        let expected = ["a.webp", "b/c.bmp", "z.JPEG"].map(path);
        assert_eq!(picture_files(root.path()).unwrap(), expected);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_unless_they_lead_back_and_broken_ones_are_kept() {
        use std::os::unix::fs::symlink;
        let (root, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = |name: &str| root.path().join(name);
        fs::create_dir_all(path("a/deep")).unwrap();
        fs::create_dir(path("other")).unwrap();
        for file in [
            path("a/1.png"),
            path("other/2.png"),
            elsewhere.path().join("3.png"),
        ] {
            fs::write(file, "").unwrap();
        }
        symlink(elsewhere.path(), path("a/elsewhere")).unwrap();
        symlink(root.path(), path("a/up")).unwrap();
        symlink(path("a"), path("a/deep/circle")).unwrap();
        symlink(path("nothing"), path("a/gone.png")).unwrap();
        symlink(path("nothing"), path("a/gone")).unwrap();
        let expected = ["a/1.png", "a/elsewhere/3.png", "a/gone.png"].map(path);
        assert_eq!(picture_files(&path("a")).unwrap(), expected);
        assert_eq!(subfolders(root.path()).unwrap(), ["a", "other"].map(path));
    }

    #[test]
    fn a_folder_that_is_not_there_is_missing() {
        let root = tempfile::tempdir().unwrap();
        let error = picture_files(&root.path().join("no")).unwrap_err();
        assert!(matches!(error, DataError::Missing { .. }), "{error}");
    }
}
