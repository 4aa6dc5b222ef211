//! Resolves a model name: a directory, or a repository of the Hub.

mod checkpoint;

use std::path::{Path, PathBuf};

use crate::access::HubAccess;
use crate::error::{HubError, Result};
use crate::name::RepoName;
use crate::repo_kind::RepoKind;

/// The location of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// A local directory.
    Directory(PathBuf),
    /// A repository of the Hub.
    Hub(RepoName),
}

impl ModelSource {
    /// Resolves `name`: an existing directory, else `USER/NAME` or `USER/NAME@REVISION`.
    ///
    /// # Errors
    /// When it is neither.
    pub fn of(name: &str) -> Result<Self> {
        if Path::new(name).is_dir() {
            return Ok(Self::Directory(name.into()));
        }
        let parsed = name.parse().map(Self::Hub);
        parsed.map_err(|_| HubError::NoModel {
            found: name.to_owned(),
        })
    }

    /// Returns the directory with `files` and the existing ones of `optional`. Files from the Hub
    /// are all of one commit and verified; the contents of a local directory are not checked.
    /// [`ModelSource::checkpoint`] is for a model whose weights may be in one of several files.
    ///
    /// # Errors
    /// All errors of [`RepoName::fetch`].
    pub fn directory(
        &self,
        access: &HubAccess,
        files: &[&str],
        optional: &[&str],
    ) -> Result<PathBuf> {
        match self {
            Self::Directory(directory) => Ok(directory.clone()),
            Self::Hub(name) => name.fetch_with(RepoKind::Model, access, files, optional),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_takes_precedence_over_a_hub_name() {
        let here = env!("CARGO_MANIFEST_DIR");
        assert_eq!(
            ModelSource::of(here).unwrap(),
            ModelSource::Directory(here.into())
        );
        let hub = ModelSource::of("someone/perceiver@v1").unwrap();
        assert_eq!(
            hub,
            ModelSource::Hub("someone/perceiver@v1".parse().unwrap())
        );
        let error = ModelSource::of("nowhere").unwrap_err().to_string();
        assert!(
            error.contains("an existing directory, or a model on the Hub")
                && error.contains("\"nowhere\""),
            "{error}"
        );
    }
}
