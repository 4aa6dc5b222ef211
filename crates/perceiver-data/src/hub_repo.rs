//! The files of one repository: listed, downloaded through `hf-hub`'s cache, and checked.

use std::fs;
use std::path::{Path, PathBuf};

use hf_hub::progress::{DownloadEvent, Progress, ProgressEvent, ProgressHandler};
use hf_hub::repository::RepoTreeEntry;
use hf_hub::{HFClient, HFError, HFRepositorySync, RepoTypeDataset};
use tracing::{info, warn};
use walkdir::WalkDir;

use crate::dataset::Split;
use crate::error::{DataError, Result};
use crate::hub::{HubDataset, HubProgress, OnProgress, check_repo};
use crate::hub_check::{RemoteFile, check_file, remove_cached};
use crate::hub_files::files_of_split;
use crate::hub_refusal::{is_cut_short, is_unreachable, not_cached, refused};

/// Where a repository's data can be, in the order of preference.
const REVISIONS: [&str; 2] = ["main", "refs/convert/parquet"];

/// Downloads tried before a file that arrives damaged is an error.
const ATTEMPTS: usize = 3;

/// A repository whose files are known.
pub(crate) struct HubRepo<'a> {
    dataset: &'a HubDataset,
    client: HFRepositorySync<RepoTypeDataset>,
    cache: PathBuf,
    revision: String,
    files: Vec<RemoteFile>,
    /// Whether to open no connection.
    local: bool,
}

impl<'a> HubRepo<'a> {
    /// Lists the repository: on the Hub, or, offline or out of its reach, in the cache.
    pub(crate) fn open(dataset: &'a HubDataset) -> Result<Self> {
        check_repo(&dataset.repo)?;
        let access = &dataset.access;
        let cache = access
            .cache_dir
            .clone()
            .unwrap_or_else(hf_hub::resolve_cache_dir);
        let mut builder = HFClient::builder().cache_dir(&cache).retry_max_attempts(3);
        if let Some(endpoint) = &access.endpoint {
            builder = builder.endpoint(endpoint);
        }
        if let Some(token) = &access.token {
            builder = builder.token(token);
        }
        let client = builder
            .build_sync()
            .map_err(|error| refused(dataset, &error))?;
        let (owner, name) = hf_hub::split_id(&dataset.repo);
        let mut repo = Self {
            dataset,
            client: client.dataset(owner, name),
            cache,
            revision: String::new(),
            files: Vec::new(),
            local: access.offline,
        };
        repo.list()?;
        Ok(repo)
    }

    fn list(&mut self) -> Result<()> {
        let revisions: Vec<&str> = match &self.dataset.revision {
            Some(revision) => vec![revision],
            None => REVISIONS.to_vec(),
        };
        let mut refusal = None;
        for &revision in &revisions {
            if self.local {
                break;
            }
            match self.list_remote(revision) {
                Ok(files) if !files.is_empty() => {
                    self.files = files;
                    revision.clone_into(&mut self.revision);
                    return Ok(());
                }
                Ok(_) => {}
                Err(error) => {
                    self.local = is_unreachable(&error);
                    refusal.get_or_insert(error);
                }
            }
        }
        if self.local {
            for &revision in &revisions {
                self.files = self.list_cached(revision);
                if !self.files.is_empty() {
                    if let Some(error) = refusal {
                        warn!(repo = self.dataset.repo, %error, "the Hub is out of reach, reading the cache");
                    }
                    revision.clone_into(&mut self.revision);
                    return Ok(());
                }
            }
        }
        Err(match refusal {
            Some(error) => refused(self.dataset, &error),
            None if self.local => not_cached(self.dataset, &self.cache, "it is not in the cache"),
            None => DataError::Hub {
                repo: self.dataset.repo.clone(),
                finding: format!("no Parquet file at {}", revisions.join(" or ")),
                hint: "choose a repository whose data viewer shows its pictures".into(),
            },
        })
    }

    fn list_remote(&self, revision: &str) -> std::result::Result<Vec<RemoteFile>, HFError> {
        let entries = self
            .client
            .list_tree()
            .revision(revision)
            .recursive(true)
            .send()?;
        let parquet = |entry| match entry {
            RepoTreeEntry::File {
                path, size, lfs, ..
            } if path.ends_with(".parquet") => Some(RemoteFile {
                path,
                size: Some(size),
                sha256: lfs.and_then(|lfs| lfs.sha256),
            }),
            _ => None,
        };
        Ok(entries.into_iter().filter_map(parquet).collect())
    }

    /// The Parquet files that the cache has of a revision: `refs/<revision>` holds the commit, and
    /// `snapshots/<commit>` the files.
    fn list_cached(&self, revision: &str) -> Vec<RemoteFile> {
        let root = self.cache.join(format!(
            "datasets--{}",
            self.dataset.repo.replace('/', "--")
        ));
        let commit = fs::read_to_string(root.join("refs").join(revision))
            .map_or_else(|_| revision.to_owned(), |commit| commit.trim().to_owned());
        let snapshot = root.join("snapshots").join(commit);
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
            .filter(|path| path.ends_with(".parquet"))
            .map(|path| RemoteFile {
                path,
                size: None,
                sha256: None,
            })
            .collect()
    }

    /// Paths in the repository of a split's files.
    pub(crate) fn split_files(&self, split: Split) -> Result<Vec<String>> {
        let paths: Vec<String> = self.files.iter().map(|file| file.path.clone()).collect();
        files_of_split(&paths, split, self.dataset.config.as_deref()).map_err(|finding| {
            if self.local {
                return not_cached(
                    self.dataset,
                    &self.cache,
                    &format!("the cache has {finding}"),
                );
            }
            DataError::Hub {
                repo: self.dataset.repo.clone(),
                finding: format!("revision {} has {finding}", self.revision),
                hint: "choose another repository, revision or configuration".into(),
            }
        })
    }

    /// A split's files on this machine, downloaded where they are not yet.
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
        let mut attempt = 1;
        loop {
            let error = match self.fetch_once(file) {
                Ok(path) => match check_file(&path, file) {
                    Ok(()) => return Ok(path),
                    Err(error) => {
                        remove_cached(&path)?;
                        error
                    }
                },
                Err(error) if is_cut_short(&error) => refused(self.dataset, &error),
                Err(error) => return Err(refused(self.dataset, &error)),
            };
            if self.local || attempt == ATTEMPTS {
                return Err(error);
            }
            warn!(%error, attempt, "downloading {} again", file.path);
            attempt += 1;
        }
    }

    fn fetch_once(&self, file: &RemoteFile) -> std::result::Result<PathBuf, HFError> {
        let progress = Progress::new(Reporter {
            on_progress: self.dataset.access.on_progress.clone(),
        });
        self.client
            .download_file()
            .filename(&file.path)
            .revision(&self.revision)
            .local_files_only(self.local)
            .progress(progress)
            .send()
    }
}

/// Passes `hf-hub`'s progress on, and logs what starts to be downloaded.
struct Reporter {
    on_progress: Option<OnProgress>,
}

impl ProgressHandler for Reporter {
    fn on_progress(&self, event: &ProgressEvent) {
        let ProgressEvent::Download(DownloadEvent::Progress { files }) = event else {
            return;
        };
        for file in files {
            if file.bytes_completed == 0 {
                info!(
                    file = file.filename,
                    bytes = file.total_bytes,
                    "downloading from the Hub"
                );
            }
            if let Some(report) = &self.on_progress {
                report(&HubProgress {
                    file: &file.filename,
                    done: file.bytes_completed,
                    total: file.total_bytes,
                });
            }
        }
    }
}
