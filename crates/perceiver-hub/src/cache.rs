//! The cache of `hf-hub`, shared with Python's `huggingface_hub`: `refs/<revision>` holds a commit,
//! `snapshots/<commit>` the files, as links into `blobs`.

use std::fs;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::check::RemoteFile;
use crate::error::{HubError, Result};
use crate::repository::Repository;

impl Repository {
    /// Returns this repository's directory in the cache.
    fn cache_root(&self) -> PathBuf {
        let id = self.id().replace('/', "--");
        self.cache()
            .join(format!("{}s--{id}", self.kind().api_name()))
    }

    /// Returns the commit of a revision by the cache; for a commit, the commit itself.
    pub(crate) fn cached_commit(&self, revision: &str) -> String {
        let path = self.cache_root().join("refs").join(revision);
        fs::read_to_string(path)
            .map_or_else(|_| revision.to_owned(), |commit| commit.trim().to_owned())
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.cache_root().join("snapshots").join(commit)
    }

    /// Lists the cached files of a revision.
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
            .filter(|entry| entry.path().is_file()) // false for a broken link
            .filter_map(|entry| relative(entry.path()))
            .map(|path| RemoteFile {
                path,
                size: None,
                sum: None,
            })
            .collect()
    }

    /// Records the commit of a revision in the cache, as `hf-hub` does when it downloads by branch
    /// name.
    ///
    /// # Errors
    /// When the cache cannot be written.
    pub(crate) fn cache_commit(&self, revision: &str, commit: &str) -> Result<()> {
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

    /// Returns the error for a file or repository that is not in the cache.
    pub fn not_cached(&self, finding: &str) -> HubError {
        HubError::Refused {
            kind: self.kind(),
            repo: self.id().to_owned(),
            finding: format!(
                "{finding} {} and no connection is allowed or possible",
                self.cache().display()
            ),
            hint: "download it once with a network and without HF_HUB_OFFLINE, or copy the cache directory from a machine that has it".into(),
        }
    }
}
