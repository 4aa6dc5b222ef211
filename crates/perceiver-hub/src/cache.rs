//! `hf-hub`'s cache, which is that of Python's `huggingface_hub`: `refs/<revision>` holds a commit, `snapshots/<commit>` the
//! files, as links into `blobs`.

use std::fs;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::check::RemoteFile;
use crate::error::{HubError, Result};
use crate::repository::Repository;

impl Repository {
    /// The directory of the cache in which this repository is.
    fn cache_root(&self) -> PathBuf {
        let id = self.id().replace('/', "--");
        self.cache().join(format!("{}s--{id}", self.kind().word()))
    }

    /// The commit that the cache knows a revision as; a commit is its own.
    pub(crate) fn cached_commit(&self, revision: &str) -> String {
        let path = self.cache_root().join("refs").join(revision);
        fs::read_to_string(path)
            .map_or_else(|_| revision.to_owned(), |commit| commit.trim().to_owned())
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.cache_root().join("snapshots").join(commit)
    }

    /// The files that the cache has of a revision.
    pub fn list_cached(&self, revision: &str) -> Vec<RemoteFile> {
        let snapshot = self.snapshot(&self.cached_commit(revision));
        let relative = |path: &Path| {
            let path = path.strip_prefix(&snapshot).ok()?;
            Some(path.to_str()?.replace('\\', "/"))
        };
        let entries = WalkDir::new(&snapshot)
            .sort_by_file_name()
            .into_iter()
            .flatten();
        entries
            .filter(|entry| entry.path().is_file()) // what a link points to, which a broken one does not
            .filter_map(|entry| relative(entry.path()))
            .map(|path| RemoteFile {
                path,
                size: None,
                sum: None,
            })
            .collect()
    }

    /// Notes that a revision is this commit, as `hf-hub` does where it downloads by the name of a branch.
    ///
    /// # Errors
    /// When the cache cannot be written.
    pub(crate) fn note_commit(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit {
            return Ok(());
        }
        let path = self.cache_root().join("refs").join(revision);
        let write = || {
            fs::create_dir_all(path.parent().unwrap_or(&path))?;
            fs::write(&path, commit)
        };
        write().map_err(|source| HubError::Io {
            action: "write",
            path: path.clone(),
            source,
        })
    }

    /// A file or repository that the cache would have to have.
    pub fn not_cached(&self, finding: &str) -> HubError {
        HubError::Refused {
            kind: self.kind(),
            repo: self.id().to_owned(),
            finding: format!(
                "{finding} {} and no connection is allowed or possible",
                self.cache().display()
            ),
            hint: "load it once with a network and without HF_HUB_OFFLINE, or copy the cache directory from a machine that has it".into(),
        }
    }
}
