//! Counts the files and folders that a listing skips, to report them once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::image_formats::READABLE_FORMATS;

/// Files and folders that programs and systems leave beside images. Their thumbnails would
/// duplicate the data.
const JUNK: [&str; 18] = [
    "@eaDir",
    "#recycle",
    "#snapshot",
    "@Recycle",
    "@Recently-Snapshot",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
    "__MACOSX",
    "__pycache__",
    ".ipynb_checkpoints",
    ".thumbnails",
    ".Trashes",
    ".DS_Store",
    "Thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "Icon\r",
];

/// Extensions of image formats that are not supported.
const UNREAD_IMAGES: [&str; 24] = [
    "apng", "avif", "avifs", "heic", "heif", "jxl", "jp2", "j2k", "jpf", "svg", "ico", "ppm",
    "pgm", "pbm", "pnm", "tga", "dds", "exr", "hdr", "psd", "dng", "cr2", "nef", "arw",
];

/// The files and folders that a listing skips: junk, files without an image extension, folders that
/// cannot be listed, training runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PassedOver {
    /// The number of files without an image extension, by lowercase extension; the empty one stands
    /// for all that are not a plain word.
    extensions: BTreeMap<String, usize>,
    /// The number of known junk files, by name.
    junk: BTreeMap<&'static str, usize>,
    /// Special files with an image extension: pipes, devices, sockets.
    special: Vec<PathBuf>,
    /// Folders that cannot be listed, with the reason.
    unlisted: Vec<(PathBuf, String)>,
    /// Directories of training runs.
    runs: Vec<PathBuf>,
    /// Folders next to the split folders.
    beside_splits: Vec<PathBuf>,
}

/// Returns the kind of junk with this file name, if it is junk.
pub(crate) fn junk_called(name: &std::ffi::OsStr) -> Option<&'static str> {
    let name = name.to_str()?;
    JUNK.into_iter()
        .find(|junk| name.eq_ignore_ascii_case(junk))
}

impl PassedOver {
    pub(crate) fn add_junk(&mut self, name: &'static str) {
        *self.junk.entry(name).or_default() += 1;
    }

    pub(crate) fn add_file(&mut self, path: &Path) {
        let extension = path.extension().and_then(|extension| extension.to_str());
        let is_plain = |extension: &&str| {
            extension.len() <= 8 && extension.bytes().all(|byte| byte.is_ascii_alphanumeric())
        };
        let extension = extension.filter(is_plain).unwrap_or_default();
        let extension = extension.to_ascii_lowercase();
        *self.extensions.entry(extension).or_default() += 1;
    }

    pub(crate) fn add_special(&mut self, path: PathBuf) {
        self.special.push(path);
    }

    pub(crate) fn add_unlisted(&mut self, folder: PathBuf, why: String) {
        self.unlisted.push((folder, why));
    }

    pub(crate) fn add_run(&mut self, directory: PathBuf) {
        self.runs.push(directory);
    }

    pub(crate) fn add_beside_splits(&mut self, folder: PathBuf) {
        self.beside_splits.push(folder);
    }

    pub(crate) fn join(&mut self, other: Self) {
        for (extension, count) in other.extensions {
            *self.extensions.entry(extension).or_default() += count;
        }
        for (name, count) in other.junk {
            *self.junk.entry(name).or_default() += count;
        }
        self.special.extend(other.special);
        self.unlisted.extend(other.unlisted);
        self.runs.extend(other.runs);
        self.beside_splits.extend(other.beside_splits);
    }

    /// Whether a training run was skipped.
    pub(crate) fn has_runs(&self) -> bool {
        !self.runs.is_empty()
    }

    /// Returns the first folder that cannot be listed, with the reason.
    pub(crate) fn first_unlisted(&self) -> Option<(&Path, &str)> {
        let (folder, why) = self.unlisted.first()?;
        Some((folder, why))
    }

    /// Describes the files found instead of images, such as "45 .heic files"; `None` if there are
    /// none.
    pub(crate) fn describe_files(&self) -> Option<String> {
        let (images, others) = self.files();
        let descriptions = [images, others].concat();
        (!descriptions.is_empty()).then(|| listed(&descriptions))
    }

    /// Describes the files by extension: unsupported image formats, and the rest.
    fn files(&self) -> (Vec<String>, Vec<String>) {
        let describe = |(extension, count): (&String, &usize)| {
            let files = if *count == 1 { "file" } else { "files" };
            match extension.as_str() {
                "" => format!("{count} other {files}"),
                extension => format!("{count} .{extension} {files}"),
            }
        };
        let (images, others): (Vec<_>, Vec<_>) = self
            .extensions
            .iter()
            .partition(|(extension, _)| UNREAD_IMAGES.contains(&extension.as_str()));
        let describe_all = |files: Vec<_>| files.into_iter().map(describe).collect();
        (describe_all(images), describe_all(others))
    }

    /// Returns the skipped files that the user may miss, one line each.
    pub fn warnings(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let (images, _) = self.files();
        if !images.is_empty() {
            lines.push(format!(
                "{} skipped: expected {READABLE_FORMATS} files",
                listed(&images)
            ));
        }
        let folders = self.unlisted.iter();
        lines.extend(folders.map(|(folder, why)| format!("{}: {why}; skipped", folder.display())));
        let special = self.special.iter();
        lines.extend(
            special.map(|path| format!("{} is not a regular file; skipped", path.display())),
        );
        lines
    }

    /// Returns the other skipped files, one line each.
    pub fn notes(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let (_, others) = self.files();
        if !others.is_empty() {
            lines.push(format!("{} skipped: no image extension", listed(&others)));
        }
        if !self.junk.is_empty() {
            let junk = self.junk.iter().map(|(name, count)| match count {
                1 => name.escape_debug().to_string(),
                _ => format!("{} ({count} times)", name.escape_debug()),
            });
            lines.push(format!("{} skipped", listed(&junk.collect::<Vec<_>>())));
        }
        let few = |paths: &[PathBuf]| {
            let mut names: Vec<String> = paths.iter().take(3).map(|path| shown(path)).collect();
            if paths.len() > names.len() {
                names.push(format!("{} more", paths.len() - names.len()));
            }
            listed(&names)
        };
        if self.has_runs() {
            lines.push(format!("{} skipped: training runs", few(&self.runs)));
        }
        if !self.beside_splits.is_empty() {
            let folders = few(&self.beside_splits);
            lines.push(format!(
                "{folders} skipped: next to the folders of the splits"
            ));
        }
        lines
    }

    /// Logs what was skipped in data set `name`.
    pub fn log(&self, name: &str) {
        for line in self.warnings() {
            tracing::warn!("{name}: {line}");
        }
        for line in self.notes() {
            tracing::info!("{name}: {line}");
        }
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Joins words: "a", "a and b", "a, b and c".
fn listed(items: &[String]) -> String {
    match items.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, before)) => format!("{} and {last}", before.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn skipped_files_are_counted_by_extension() {
        let mut passed = PassedOver::default();
        for name in ["a.HEIC", "b.heic", "c.tga", "d.txt", "e", "f.\u{1b}[2J"] {
            passed.add_file(Path::new(name));
        }
        let expected = "2 .heic files and 1 .tga file skipped: expected PNG, JPEG, WebP, BMP, GIF or TIFF files";
        assert_eq!(passed.warnings(), [expected]);
        let expected = "2 other files and 1 .txt file skipped: no image extension";
        assert_eq!(passed.notes(), [expected]);
        assert_eq!(
            passed.describe_files().unwrap(),
            "2 .heic files, 1 .tga file, 2 other files and 1 .txt file"
        );
    }

    #[test]
    fn junk_names_are_case_insensitive() {
        assert_eq!(junk_called(OsStr::new("thumbs.DB")), Some("Thumbs.db"));
        assert_eq!(junk_called(OsStr::new("eaDir")), None);
        let mut passed = PassedOver::default();
        for name in ["@eaDir", "@eaDir", "Thumbs.db"] {
            passed.add_junk(name);
        }
        let mut all = PassedOver::default();
        all.join(passed);
        assert_eq!(all.notes(), ["@eaDir (2 times) and Thumbs.db skipped"]);
        assert!(all.warnings().is_empty());
    }
}
