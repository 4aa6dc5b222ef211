//! Image inputs of a command: files, folders, patterns, and lists on standard input.
//!
//! Inputs keep the order in which they are named; the images of a folder or pattern are sorted.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, anyhow};
use perceiver_data::{READABLE_FORMATS, image_files};
use perceiver_files::{MAX_TABLE_BYTES, read_limited};

/// The name of standard input, which holds a list.
pub(crate) const STANDARD_INPUT: &str = "-";

/// Image paths, and errors for inputs without images.
#[derive(Debug, Default)]
pub(crate) struct ImageInputs {
    pub(crate) paths: Vec<PathBuf>,
    /// Folders and patterns without images, and folders that cannot be read.
    pub(crate) errors: Vec<Error>,
}

impl ImageInputs {
    /// Expands the inputs in `named`. Lists on standard input have one path per line, or with
    /// `null` paths that end with NUL.
    ///
    /// # Errors
    /// When standard input cannot be read.
    pub(crate) fn read(named: &[PathBuf], null: bool) -> Result<Self> {
        let mut list = Self::default();
        for name in named {
            if name.as_os_str() == STANDARD_INPUT {
                let bytes = read_limited(io::stdin().lock(), MAX_TABLE_BYTES)
                    .context("cannot read the list of images from standard input")?;
                let paths = paths_in(&bytes, null);
                if paths.is_empty() {
                    list.errors.push(anyhow!(
                        "standard input: expected paths of images, {}, found none",
                        if null {
                            "NUL-terminated"
                        } else {
                            "one per line"
                        }
                    ));
                }
                for path in paths {
                    list.add(&path);
                }
            } else {
                list.add_named(name);
            }
        }
        Ok(list)
    }

    /// Adds a file, a folder, or the matches of a pattern. An existing file with the literal name
    /// of the pattern takes precedence.
    fn add_named(&mut self, name: &Path) {
        let pattern = name
            .to_str()
            .filter(|text| text.contains(['*', '?', '[']) && fs::symlink_metadata(name).is_err());
        match pattern {
            None => self.add(name),
            Some(pattern) => {
                if let Err(error) = self.add_matches(pattern) {
                    self.errors
                        .push(error.context(format!("pattern {pattern}")));
                }
            }
        }
    }

    fn add_matches(&mut self, pattern: &str) -> Result<()> {
        // As in a shell, a pattern matches hidden files only with a literal dot.
        let options = glob::MatchOptions {
            require_literal_separator: true,
            require_literal_leading_dot: true,
            ..glob::MatchOptions::default()
        };
        let matches: Vec<_> = glob::glob_with(pattern, options)?.collect();
        if matches.is_empty() {
            return Err(anyhow!("expected images, found no matching file"));
        }
        for path in matches {
            match path {
                Ok(path) => self.add(&path),
                Err(error) => self.errors.push(error.into()),
            }
        }
        Ok(())
    }

    /// Adds a file, or the images in a folder.
    fn add(&mut self, path: &Path) {
        if !path.is_dir() {
            self.paths.push(path.to_owned());
            return;
        }
        match image_files(path) {
            Ok(images) if images.is_empty() => self.errors.push(anyhow!(
                "folder {}: expected images, found no {READABLE_FORMATS} file",
                path.display()
            )),
            Ok(images) => self.paths.extend(images),
            Err(error) => self.errors.push(error.into()),
        }
    }
}

/// Splits a list into paths: one per line (LF or CRLF), or with NUL after each. Empty paths are
/// skipped.
fn paths_in(bytes: &[u8], null: bool) -> Vec<PathBuf> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes); // byte order mark
    let end = if null { 0 } else { b'\n' };
    bytes
        .split(|&byte| byte == end)
        .map(|path| match path {
            [path @ .., b'\r'] if !null => path,
            path => path,
        })
        .filter(|path| !path.is_empty())
        .map(path_of)
        .collect()
}

/// Converts bytes to a path. On systems whose paths are text, invalid UTF-8 yields a path that does
/// not exist.
fn path_of(bytes: &[u8]) -> PathBuf {
    #[cfg(unix)]
    {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        PathBuf::from(OsStr::from_bytes(bytes))
    }
    #[cfg(not(unix))]
    PathBuf::from(String::from_utf8_lossy(bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &[u8], null: bool) -> Vec<String> {
        let paths = paths_in(text, null).into_iter();
        paths.map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn lists_may_have_any_line_ending() {
        let expected = ["a.png", "b c.png", "d"];
        assert_eq!(paths(b"a.png\nb c.png\nd", false), expected);
        assert_eq!(
            paths(b"\xef\xbb\xbfa.png\r\n\r\nb c.png\r\n\nd\r\n", false),
            expected
        );
        assert_eq!(paths(b"a.png\0b c.png\0d\0", true), expected);
        assert_eq!(paths(b"two\nlines\0", true), ["two\nlines"]);
        assert!(paths(b"\n\r\n", false).is_empty());
    }

    fn named(root: &Path, name: &str) -> (Vec<String>, Vec<String>) {
        let list = ImageInputs::read(&[root.join(name)], false).unwrap();
        let relative = |path: PathBuf| path.strip_prefix(root).unwrap().display().to_string();
        let errors = list.errors.iter().map(|error| format!("{error:#}"));
        (
            list.paths.into_iter().map(relative).collect(),
            errors.collect(),
        )
    }

    #[test]
    fn files_folders_and_patterns_expand_to_images() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        for folder in ["b", "a/deep", "empty"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        for file in [
            "b/2.png",
            "a/deep/1.jpg",
            "a/notes.txt",
            "a/0.bmp",
            "x[1].png",
            ".z.png",
        ] {
            fs::write(root.join(file), "").unwrap();
        }
        for (name, expected) in [
            ("b/2.png", vec!["b/2.png"]),
            ("no.png", vec!["no.png"]), // reported when it is opened
            ("a", vec!["a/0.bmp", "a/deep/1.jpg"]),
            ("*/*.png", vec!["b/2.png"]),
            ("**/*.jpg", vec!["a/deep/1.jpg"]),
            ("[ab]", vec!["a/0.bmp", "a/deep/1.jpg", "b/2.png"]),
            ("x[1].png", vec!["x[1].png"]),
            ("*.png", vec!["x[1].png"]),
        ] {
            let (paths, errors) = named(root, name);
            assert_eq!(
                (paths, errors.len()),
                (expected.iter().map(ToString::to_string).collect(), 0),
                "{name}"
            );
        }
        for (name, finding) in [
            ("empty", "expected images, found no PNG"),
            ("*.gif", "*.gif: expected images, found no matching file"),
            ("***", "wildcards"),
        ] {
            let (paths, errors) = named(root, name);
            assert!(
                paths.is_empty() && errors.len() == 1 && errors[0].contains(finding),
                "{errors:?}"
            );
        }
    }
}
