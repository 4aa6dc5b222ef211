//! Finds the image files in a folder, and reads many in parallel.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use walkdir::{DirEntry, WalkDir};

use crate::dataset::image::Image;
use crate::error::{DataError, Result};
use crate::formats::broken_images::{concerns_one_file, is_broken_link};
use crate::formats::image_folder::skipped::{PassedOver, junk_called};
use crate::image_formats::is_image_extension;

/// Linux pseudo file systems, whose links lead everywhere.
const PSEUDO_FILE_SYSTEMS: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Returns the files in `folder` with an image extension, such as `.png`, `.jpg` and `.webp`, at
/// any depth, sorted by path.
///
/// Hidden and known system files and folders are skipped. Symbolic links are followed unless they
/// lead back to a folder they are in. A dangling link with an image extension is included, so that
/// opening it reports the problem. Subfolders that cannot be listed are skipped.
///
/// # Errors
/// [`DataError::Missing`] when the folder does not exist, [`DataError::Io`] when it cannot be
/// listed or a disk fails.
pub fn image_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let walked = Walked::all(folder)?;
    for line in walked.passed_over.warnings() {
        tracing::warn!("{}: {line}", folder.display());
    }
    for line in walked.passed_over.notes() {
        tracing::debug!("{}: {line}", folder.display());
    }
    Ok(walked.images)
}

/// Reads, decodes and downscales images in parallel, independently of each other, in the order of
/// `paths`. At most one image per core is in memory at full size.
pub fn open_all<P: AsRef<Path> + Sync>(paths: &[P], shorter_side: usize) -> Vec<Result<Image>> {
    paths
        .par_iter()
        .map(|path| Image::open_shrunk(path.as_ref(), shorter_side))
        .collect()
}

/// The content of a folder, sorted by path.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    /// Files with an image extension.
    pub(crate) images: Vec<PathBuf>,
    /// Visible folders, except training runs.
    pub(crate) folders: Vec<PathBuf>,
    pub(crate) passed_over: PassedOver,
}

impl Walked {
    /// Walks `root` at any depth.
    pub(crate) fn all(root: &Path) -> Result<Self> {
        Self::of(WalkDir::new(root), root)
    }

    /// Lists the direct entries of `root`.
    pub(crate) fn directly_in(root: &Path) -> Result<Self> {
        Self::of(WalkDir::new(root).max_depth(1), root)
    }

    fn of(walk: WalkDir, root: &Path) -> Result<Self> {
        let mut walked = Self::default();
        let mut walk = walk.follow_links(true).sort_by_file_name().into_iter();
        while let Some(entry) = walk.next() {
            match entry {
                Ok(entry) => {
                    let is_folder = entry.file_type().is_dir();
                    let is_kept = walked.add(root, entry);
                    if is_folder && !is_kept {
                        walk.skip_current_dir();
                    }
                }
                Err(error) => walked.add_unreadable(root, error)?,
            }
        }
        Ok(walked)
    }

    /// Adds an entry; returns whether it is kept, not skipped.
    fn add(&mut self, root: &Path, entry: DirEntry) -> bool {
        if entry.depth() > 0 && self.is_passed_over(root, &entry) {
            return false;
        }
        let (is_folder, is_file) = (entry.file_type().is_dir(), entry.file_type().is_file());
        let depth = entry.depth();
        let path = entry.into_path();
        match (is_folder, has_image_extension(&path)) {
            (true, _) if depth > 0 => self.folders.push(path),
            (true, _) => {}
            (false, true) if is_file => self.images.push(path),
            (false, true) => self.passed_over.add_special(path),
            (false, false) => self.passed_over.add_file(&path),
        }
        true
    }

    fn is_passed_over(&mut self, root: &Path, entry: &DirEntry) -> bool {
        let path = entry.path();
        if let Some(junk) = junk_called(entry.file_name()) {
            self.passed_over.add_junk(junk);
            return true;
        }
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            return true;
        }
        if !entry.file_type().is_dir() {
            return false;
        }
        if is_run(path) {
            self.passed_over.add_run(path.to_owned());
            return true;
        }
        if !entry.path_is_symlink() {
            return false;
        }
        let (Ok(root), Ok(target)) = (fs::canonicalize(root), fs::canonicalize(path)) else {
            return false;
        };
        if PSEUDO_FILE_SYSTEMS
            .iter()
            .any(|prefix| target.starts_with(prefix))
        {
            let why = format!("a link to {}, which holds no images", target.display());
            self.passed_over.add_unlisted(path.to_owned(), why);
            return true;
        }
        // An ancestor of `root` also contains what does not belong to `root`.
        let leads_out = root.starts_with(target);
        if leads_out {
            tracing::debug!("{} skipped: it links to a folder above it", path.display());
        }
        leads_out
    }

    /// Handles an entry that cannot be followed: circular links are skipped, dangling links count
    /// as what their names say, folders that cannot be listed are noted, and a failing disk is an
    /// error.
    fn add_unreadable(&mut self, root: &Path, error: walkdir::Error) -> Result<()> {
        let path = error.path().map(Path::to_owned);
        let Some(path) = path.filter(|_| error.depth() > 0) else {
            return Err(unreadable(root, error));
        };
        if error.loop_ancestor().is_some() {
            tracing::debug!("{error}; skipped");
        } else if is_broken_link(&path) {
            if has_image_extension(&path) {
                self.images.push(path);
            } else {
                self.passed_over.add_file(&path);
            }
        } else if let Some(why) = error.io_error().filter(|why| concerns_one_file(why.kind())) {
            let why = format!("cannot be listed: {why}");
            self.passed_over.add_unlisted(path, why);
        } else {
            return Err(unreadable(root, error));
        }
        Ok(())
    }
}

/// Whether a directory is a training run or a checkpoint, by its files.
fn is_run(directory: &Path) -> bool {
    let has = |file: &str| directory.join(file).is_file();
    has("training/recipe.toml")
        || has("training/lock.json")
        || (has("config.json") && has("model.safetensors"))
}

fn has_image_extension(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(is_image_extension)
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
    fn images_are_recognized_by_extension_and_sorted() {
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
        assert_eq!(image_files(root.path()).unwrap(), expected);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_except_circular_ones_and_dangling_ones_are_kept() {
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
        assert_eq!(image_files(&path("a")).unwrap(), expected);
        let walked = Walked::directly_in(root.path()).unwrap();
        assert_eq!(walked.folders, ["a", "other"].map(path));
    }

    #[test]
    fn junk_and_training_runs_are_skipped_and_counted() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        for file in [
            "a/1.png",
            "a/@eaDir/1.png",
            "a/.ipynb_checkpoints/1-checkpoint.png",
            "a/Thumbs.db",
            "a/2.heic",
            "a/notes",
            "__MACOSX/a/1.png",
            "runs/photos-1/training/recipe.toml",
            "runs/photos-1/1.png",
            "model/config.json",
            "model/model.safetensors",
        ] {
            fs::create_dir_all(path(file).parent().unwrap()).unwrap();
            fs::write(path(file), "").unwrap();
        }
        let walked = Walked::all(root.path()).unwrap();
        assert_eq!(walked.images, [path("a/1.png")]);
        let warnings = walked.passed_over.warnings();
        assert!(
            warnings[0].starts_with("1 .heic file skipped"),
            "{warnings:?}"
        );
        let notes = walked.passed_over.notes();
        assert!(notes[0].starts_with("1 other file skipped"), "{notes:?}");
        assert_eq!(
            notes[1],
            ".ipynb_checkpoints, @eaDir, Thumbs.db and __MACOSX skipped"
        );
        let [model, run] = ["model", "runs/photos-1"].map(|name| path(name).display().to_string());
        assert_eq!(
            notes[2],
            format!("{model} and {run} skipped: training runs")
        );
        assert_eq!((warnings.len(), notes.len()), (1, 3));
    }

    /// A link to itself is kept as a broken image; `/proc` leads everywhere.
    #[cfg(target_os = "linux")]
    #[test]
    fn self_links_are_kept_and_pseudo_file_systems_skipped() {
        use std::os::unix::fs::symlink;
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir(path("a")).unwrap();
        symlink(path("a/x.png"), path("a/x.png")).unwrap();
        symlink("/proc", path("a/deep")).unwrap();
        symlink("/dev/zero", path("a/zero.png")).unwrap();
        let walked = Walked::all(&path("a")).unwrap();
        assert_eq!(walked.images, [path("a/x.png")]);
        let warnings = walked.passed_over.warnings();
        assert!(
            warnings[0].ends_with("deep: a link to /proc, which holds no images; skipped"),
            "{warnings:?}"
        );
        assert!(
            warnings[1].ends_with("zero.png is not a regular file; skipped"),
            "{warnings:?}"
        );
    }

    #[test]
    fn a_nonexistent_folder_is_missing() {
        let root = tempfile::tempdir().unwrap();
        let error = image_files(&root.path().join("no")).unwrap_err();
        assert!(matches!(error, DataError::Missing { .. }), "{error}");
    }
}
