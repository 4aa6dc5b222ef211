//! Uploads files to the Hub in one commit.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use hf_hub::RepoTypeAny;
use hf_hub::progress::Progress;
use hf_hub::repository::CommitOperation;

use crate::check::RemoteFile;
use crate::error::{HubError, Result};
use crate::name::check_revision;
use crate::progress::Reporter;
use crate::refusal::status;
use crate::repo_kind::RepoKind;
use crate::repository::Purpose;
use crate::repository::Repository;

/// A file to upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    path: String,
    content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    File(PathBuf),
    Bytes(Vec<u8>),
}

/// The result of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Commit ID.
    pub id: String,
    /// Web address.
    pub address: String,
}

impl Upload {
    /// Creates an upload of the local file `source` to `path` in the repository.
    pub fn file(path: impl Into<String>, source: impl Into<PathBuf>) -> Self {
        let (path, content) = (path.into(), Content::File(source.into()));
        Self { path, content }
    }

    /// Creates an upload of `bytes` to `path` in the repository.
    pub fn bytes(path: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        let (path, content) = (path.into(), Content::Bytes(bytes.into()));
        Self { path, content }
    }

    /// Returns the path in the repository.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the size in bytes.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn size(&self) -> Result<u64> {
        match &self.content {
            Content::File(source) => {
                let metadata = fs::metadata(source);
                Ok(metadata.map_err(|error| unreadable(source, error))?.len())
            }
            Content::Bytes(bytes) => Ok(bytes.len() as u64),
        }
    }

    /// Returns the content.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn content(&self) -> Result<Vec<u8>> {
        match &self.content {
            Content::File(source) => fs::read(source).map_err(|error| unreadable(source, error)),
            Content::Bytes(bytes) => Ok(bytes.clone()),
        }
    }

    fn reader(&self) -> Result<Box<dyn Read + '_>> {
        match &self.content {
            Content::File(source) => {
                let file = File::open(source).map_err(|error| unreadable(source, error))?;
                Ok(Box::new(file))
            }
            Content::Bytes(bytes) => Ok(Box::new(bytes.as_slice())),
        }
    }

    fn operation(&self) -> CommitOperation {
        match &self.content {
            Content::File(source) => CommitOperation::add_file(&self.path, source),
            Content::Bytes(bytes) => CommitOperation::add_bytes(&self.path, bytes.clone()),
        }
    }

    /// Compares the file with the Hub's listing of it; returns the difference in words.
    fn difference(&self, listed: Option<&RemoteFile>) -> Result<Option<String>> {
        let Some(listed) = listed else {
            return Ok(Some(format!("no {} in the new commit", self.path)));
        };
        let size = self.size()?;
        if let Some(actual) = listed.size.filter(|&actual| actual != size) {
            let path = &self.path;
            return Ok(Some(format!("{path} of {actual} bytes, not {size}")));
        }
        let Some(there) = &listed.sum else {
            return Ok(None);
        };
        let here = there
            .of_same_kind(&mut self.reader()?, size)
            .map_err(|error| unreadable(Path::new(&self.path), error))?;
        let differs = here != *there;
        Ok(differs.then(|| format!("{} with {}, not {}", self.path, there.shown(), here.shown())))
    }
}

fn unreadable(path: &Path, source: io::Error) -> HubError {
    HubError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    }
}

impl Repository {
    /// Creates the repository unless it exists.
    ///
    /// # Errors
    /// When there is no token or the Hub refuses; also when it should be private, but exists and is
    /// public.
    pub fn create(&self, private: bool) -> Result<()> {
        self.require_token()?;
        let of_kind = match self.kind() {
            RepoKind::Model => RepoTypeAny::Model,
            RepoKind::Dataset => RepoTypeAny::Dataset,
        };
        let create = || {
            let builder = self.hub().create_repository().repo_id(self.id());
            let builder = builder.repo_type(of_kind).private(private).exist_ok(true);
            builder.send().map(|_| ())
        };
        self.persist("creating the repository", create)
            .map_err(|error| self.explain(&error, Purpose::Write))?;
        if !private {
            return Ok(());
        }
        let request = || self.info(None);
        let (_, is_private) = self
            .persist("checking the repository", request)
            .map_err(|error| self.explain(&error, Purpose::Write))?;
        if is_private == Some(true) {
            return Ok(());
        }
        Err(HubError::Refused {
            kind: self.kind(),
            repo: self.id().to_owned(),
            finding: "it already exists and is not private".into(),
            hint: "make it private in its settings, choose another name, or push without --private"
                .into(),
        })
    }

    /// Uploads files to a branch in one commit and verifies that the Hub has them. A missing branch
    /// is created from `main`. Other files of the branch stay.
    ///
    /// # Errors
    /// When there is no token, the Hub refuses or the connection breaks; the commit is then
    /// complete or absent.
    pub fn upload(&self, branch: &str, message: &str, files: &[Upload]) -> Result<Commit> {
        self.require_token()?;
        check_revision(branch)?;
        self.require_branch(branch)?;
        let operations: Vec<CommitOperation> = files.iter().map(Upload::operation).collect();
        let commit = || {
            let reporter = Reporter::new(self.access().on_progress.clone());
            self.client()
                .create_commit()
                .operations(operations.clone())
                .commit_message(message)
                .revision(branch)
                .progress(Progress::new(reporter))
                .send()
        };
        let made = self
            .persist("uploading", commit)
            .map_err(|error| self.explain(&error, Purpose::Write))?;
        let id = match made.commit_oid {
            Some(id) => id,
            None => self.commit_of(branch)?,
        };
        self.require_same(&id, files)?;
        let address = format!("{}/tree/{id}", self.address());
        Ok(Commit { id, address })
    }

    fn require_branch(&self, branch: &str) -> Result<()> {
        let request = || self.info(Some(branch));
        match self.persist("checking the branch", request) {
            Ok(_) => return Ok(()),
            Err(error) if status(&error) != 404 || branch == "main" => {
                return Err(self.explain(&error, Purpose::Write));
            }
            Err(_) => {}
        }
        let create = || self.client().create_branch().branch(branch).send();
        match self.persist("creating the branch", create) {
            Err(error) if status(&error) != 409 => Err(self.explain(&error, Purpose::Write)),
            _ => Ok(()),
        }
    }

    /// Verifies that a commit has the same files as this machine.
    fn require_same(&self, commit: &str, files: &[Upload]) -> Result<()> {
        let listed = self.list(commit)?;
        for file in files {
            let there = listed.iter().find(|listed| listed.path == file.path);
            if let Some(finding) = file.difference(there)? {
                return Err(HubError::Refused {
                    kind: self.kind(),
                    repo: self.id().to_owned(),
                    finding: format!("after the upload it has {finding}"),
                    hint: "push again; do not use this commit".into(),
                });
            }
        }
        Ok(())
    }

    fn require_token(&self) -> Result<()> {
        if self.token().is_some() {
            return Ok(());
        }
        Err(HubError::Refused {
            kind: self.kind(),
            repo: self.id().to_owned(),
            finding: "an upload needs an access token, and there is none".into(),
            hint: "set HF_TOKEN to one with write access (huggingface.co/settings/tokens), or log in with `hf auth login`".into(),
        })
    }
}
