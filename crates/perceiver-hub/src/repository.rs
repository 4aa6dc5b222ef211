//! A repository of the Hub.

use std::fmt;
use std::path::{Path, PathBuf};

use hf_hub::repository::RepoTreeEntry;
use hf_hub::{HFClientSync, HFError, HFRepositorySync, RepoTypeAny};

use crate::access::HubAccess;
use crate::check::{RemoteFile, Sum};
use crate::error::{HubError, Result};
use crate::name::{check_id, check_revision};
use crate::repo_kind::RepoKind;

/// The purpose of a refused request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Read,
    Write,
}

/// A repository of the Hub, with the client for it.
#[derive(Debug)]
pub struct Repository {
    kind: RepoKind,
    id: String,
    access: HubAccess,
    token: Secret,
    cache: PathBuf,
    hub: HFClientSync,
    client: HFRepositorySync<RepoTypeAny>,
}

/// A token to be removed from messages.
struct Secret(Option<String>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hidden")
    }
}

impl Repository {
    /// Creates a handle to the repository `id`, `USER/NAME`. Opens no connection.
    ///
    /// # Errors
    /// When the name or the address of the Hub is invalid.
    pub fn connect(kind: RepoKind, id: &str, access: &HubAccess) -> Result<Self> {
        check_id(id)?;
        let hub = access.client().map_err(|error| HubError::Refused {
            kind,
            repo: id.to_owned(),
            finding: error.to_string(),
            hint: "check HF_ENDPOINT".into(),
        })?;
        let (owner, name) = hf_hub::split_id(id);
        let of_kind = match kind {
            RepoKind::Model => RepoTypeAny::Model,
            RepoKind::Dataset => RepoTypeAny::Dataset,
        };
        Ok(Self {
            kind,
            id: id.to_owned(),
            access: access.clone(),
            token: Secret(access.resolved_token()),
            cache: access.resolved_cache(),
            client: hub.repository(of_kind, owner, name),
            hub,
        })
    }

    /// Returns the kind: model or data set.
    pub fn kind(&self) -> RepoKind {
        self.kind
    }

    /// Returns the name, `USER/NAME`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the web address.
    pub fn address(&self) -> String {
        let prefix = match self.kind {
            RepoKind::Model => "",
            RepoKind::Dataset => "datasets/",
        };
        format!("{}/{prefix}{}", self.access.address(), self.id)
    }

    pub(crate) fn access(&self) -> &HubAccess {
        &self.access
    }

    pub(crate) fn token(&self) -> Option<&str> {
        self.token.0.as_deref()
    }

    pub(crate) fn cache(&self) -> &Path {
        &self.cache
    }

    pub(crate) fn hub(&self) -> &HFClientSync {
        &self.hub
    }

    pub(crate) fn client(&self) -> &HFRepositorySync<RepoTypeAny> {
        &self.client
    }

    /// Lists the files of a revision on the Hub.
    ///
    /// # Errors
    /// When the Hub refuses or cannot be reached.
    pub fn list(&self, revision: &str) -> Result<Vec<RemoteFile>> {
        check_revision(revision)?;
        let list = || {
            self.client
                .list_tree()
                .revision(revision)
                .recursive(true)
                .send()
        };
        let entries = self
            .persist("listing the repository", list)
            .map_err(|error| self.explain(&error, Purpose::Read))?;
        Ok(entries.into_iter().filter_map(remote_file).collect())
    }

    /// Returns the current commit of a branch, tag or short commit.
    ///
    /// # Errors
    /// When the Hub refuses or cannot be reached.
    pub fn commit_of(&self, revision: &str) -> Result<String> {
        check_revision(revision)?;
        let sha = self
            .persist("looking up the revision", || self.info(Some(revision)))
            .map(|(sha, _)| sha)
            .map_err(|error| self.explain(&error, Purpose::Read))?;
        // The commit becomes part of a cache path.
        sha.filter(|sha| sha.len() == 40 && sha.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .ok_or_else(|| HubError::Refused {
                kind: self.kind,
                repo: self.id.clone(),
                finding: format!("the response contains no commit for {revision}"),
                hint: "check HF_ENDPOINT".into(),
            })
    }

    /// Returns the commit of a revision and whether the repository is private.
    pub(crate) fn info(
        &self,
        revision: Option<&str>,
    ) -> std::result::Result<(Option<String>, Option<bool>), HFError> {
        let (owner, name) = hf_hub::split_id(&self.id);
        match self.kind {
            RepoKind::Model => {
                let model = self.hub.model(owner, name);
                let info = model.info().maybe_revision(revision).send()?;
                Ok((info.sha, info.private))
            }
            RepoKind::Dataset => {
                let dataset = self.hub.dataset(owner, name);
                let info = dataset.info().maybe_revision(revision).send()?;
                Ok((info.sha, info.private))
            }
        }
    }
}

/// Converts an entry of a listing. The `oid` of a large file is that of its pointer; the checksum
/// of the content is beside it.
fn remote_file(entry: RepoTreeEntry) -> Option<RemoteFile> {
    let RepoTreeEntry::File {
        path,
        size,
        lfs,
        oid,
        ..
    } = entry
    else {
        return None;
    };
    let sum = match lfs {
        None => Some(Sum::GitBlob(oid)),
        Some(lfs) => {
            // The listing has the SHA-256 too, but under a name that `hf-hub` 1.0 does not read.
            let by_pointer = || Sum::of_pointer(oid, lfs.pointer_size?, size);
            lfs.sha256.map(Sum::Sha256).or_else(by_pointer)
        }
    };
    let size = Some(size);
    is_safe_path(&path).then_some(RemoteFile { path, size, sum })
}

/// Returns whether a repository path stays within its target directory.
fn is_safe_path(path: &str) -> bool {
    let is_safe =
        |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', ':']);
    path.split('/').all(is_safe)
}
