//! A data set repository of the Hub: lists, chooses and downloads its Parquet files.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use perceiver_hub::{HubError, RemoteFile, RepoKind, Repository, remove_cached};
use tracing::warn;

use crate::dataset::Split;
use crate::dataset::splits::VALIDATION;
use crate::error::{DataError, Result};
use crate::formats::hub::HubDataset;
use crate::formats::hub::files::{files_of_split, split_of_path};

/// The revisions searched for data, in order of preference.
const REVISIONS: [&str; 2] = ["main", "refs/convert/parquet"];

/// A repository with its list of files.
pub(crate) struct HubRepo<'a> {
    dataset: &'a HubDataset,
    repository: Repository,
    revision: String,
    files: Vec<RemoteFile>,
    /// Whether to work offline.
    local: bool,
}

impl<'a> HubRepo<'a> {
    /// Lists the repository on the Hub or, if offline or unreachable, in the cache.
    pub(crate) fn open(dataset: &'a HubDataset) -> Result<Self> {
        let repository = Repository::connect(RepoKind::Dataset, &dataset.repo, &dataset.access)?;
        let mut repo = Self {
            dataset,
            repository,
            revision: String::new(),
            files: Vec::new(),
            local: dataset.access.offline,
        };
        repo.list()?;
        Ok(repo)
    }

    fn list(&mut self) -> Result<()> {
        let revisions: Vec<&str> = match &self.dataset.revision {
            Some(revision) => vec![revision],
            None => REVISIONS.to_vec(),
        };
        let mut first_error = None;
        for &revision in &revisions {
            if self.local {
                break;
            }
            match self.repository.list(revision).map(parquet_files) {
                Ok(files) if !files.is_empty() => {
                    self.files = files;
                    revision.clone_into(&mut self.revision);
                    return Ok(());
                }
                Ok(_) => {}
                Err(error) => {
                    self.local = matches!(error, HubError::Unreachable { .. });
                    first_error.get_or_insert(error);
                }
            }
        }
        if self.local {
            for &revision in &revisions {
                self.files = parquet_files(self.repository.list_cached(revision));
                if !self.files.is_empty() {
                    if let Some(error) = first_error {
                        warn!(repo = self.dataset.repo, %error, "the Hub is unreachable, reading the cache");
                    }
                    revision.clone_into(&mut self.revision);
                    return Ok(());
                }
            }
        }
        Err(match first_error {
            Some(error) => error.into(),
            None if self.local => self.repository.not_cached("it is not in the cache").into(),
            None => DataError::Hub {
                repo: self.dataset.repo.clone(),
                finding: format!("no Parquet file at {}", revisions.join(" or ")),
                hint: "choose a repository whose dataset viewer shows its images".into(),
            },
        })
    }

    /// Returns the paths of a split's files in the repository.
    pub(crate) fn split_files(&self, split: Split) -> Result<Vec<String>> {
        let paths: Vec<String> = self.files.iter().map(|file| file.path.clone()).collect();
        files_of_split(&paths, split, self.dataset.config.as_deref()).map_err(|finding| {
            if self.local {
                let finding = format!("the cache has {finding}");
                return self.repository.not_cached(&finding).into();
            }
            DataError::Hub {
                repo: self.dataset.repo.clone(),
                finding: format!("revision {} has {finding}", self.revision),
                hint: "choose another repository, revision or configuration".into(),
            }
        })
    }

    /// Whether the validation split stands in for a missing test split.
    pub(crate) fn is_tested_by_validation(&self) -> bool {
        let is_validation = |path: &String| split_of_path(path) == Some(VALIDATION);
        let test = self.split_files(Split::Test);
        test.is_ok_and(|files| files.first().is_some_and(is_validation))
    }

    /// Returns the local files of a split, downloaded if necessary.
    pub(crate) fn fetch_split(&self, split: Split) -> Result<Vec<PathBuf>> {
        let paths = self.split_files(split)?;
        let wanted = |path: &String| self.files.iter().find(|file| file.path == *path);
        paths
            .iter()
            .filter_map(wanted)
            .map(|file| self.fetch(file))
            .collect()
    }

    fn fetch(&self, file: &RemoteFile) -> Result<PathBuf> {
        let path = self.repository.fetch(file, &self.revision, self.local)?;
        require_parquet_marks(&path)?;
        Ok(path)
    }
}

fn parquet_files(mut files: Vec<RemoteFile>) -> Vec<RemoteFile> {
    files.retain(|file| file.path.ends_with(".parquet"));
    files
}

/// Removes a file that does not begin and end with `PAR1`, so that a cache without checksums does
/// not keep an error page.
fn require_parquet_marks(path: &Path) -> Result<()> {
    match has_parquet_marks(path) {
        Ok(true) => Ok(()),
        Ok(false) => {
            remove_cached(path)?;
            Err(DataError::WrongDownload {
                path: path.to_owned(),
                expected: "Parquet".into(),
                found: "something else, perhaps an error page".into(),
            })
        }
        Err(source) => Err(DataError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

fn has_parquet_marks(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let (mut first, mut last) = ([0; 4], [0; 4]);
    if file.metadata()?.len() < 12 {
        return Ok(false);
    }
    file.read_exact(&mut first)?;
    file.seek(SeekFrom::End(-4))?;
    file.read_exact(&mut last)?;
    Ok([first, last] == [*b"PAR1", *b"PAR1"])
}

impl From<HubError> for DataError {
    fn from(error: HubError) -> Self {
        match error {
            HubError::Name { expected, found } => Self::InvalidOption {
                option: "Hub repository",
                expected: expected.into(),
                found,
            },
            HubError::WrongDownload {
                path,
                expected,
                found,
            } => Self::WrongDownload {
                path,
                expected,
                found,
            },
            HubError::Io {
                action,
                path,
                source,
            } => Self::Io {
                action,
                path,
                source,
            },
            HubError::Refused {
                repo,
                finding,
                hint,
                ..
            }
            | HubError::Unreachable {
                repo,
                finding,
                hint,
                ..
            } => Self::Hub {
                repo,
                finding,
                hint,
            },
            other => Self::Hub {
                repo: String::new(),
                finding: other.to_string(),
                hint: "check the repository".into(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_pages_are_rejected_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("train-0.parquet");
        std::fs::write(&path, b"PAR1 columns PAR1").unwrap();
        require_parquet_marks(&path).unwrap();
        std::fs::write(&path, b"<html>oops</html>").unwrap();
        let error = require_parquet_marks(&path).unwrap_err();
        assert!(error.to_string().contains("error page"), "{error}");
        assert!(!path.exists());
    }
}
