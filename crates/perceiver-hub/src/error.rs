//! Errors of Hub transfers, one variant each.

use std::io;
use std::path::PathBuf;

use crate::repo_kind::RepoKind;

/// Errors of the Hub, the cache or a downloaded file. No message ever holds a token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The text is no repository name.
    #[error("Hub repository: expected {expected}, found {found}")]
    Name {
        /// The expected form, in words.
        expected: &'static str,
        /// The text found.
        found: String,
    },

    /// The text is neither a directory nor a model name.
    #[error(
        "expected an existing directory, or a model on the Hub as USER/NAME or USER/NAME@REVISION, found {found:?}"
    )]
    NoModel {
        /// The text found.
        found: String,
    },

    /// The Hub, or the cache in its place, refuses a request.
    #[error("{kind} {repo} on the Hub: {finding}; {hint}")]
    Refused {
        /// Model or data set.
        kind: RepoKind,
        /// The repository.
        repo: String,
        /// The reason.
        finding: String,
        /// The remedy.
        hint: String,
    },

    /// The Hub cannot be reached, or the connection breaks.
    #[error("{kind} {repo} on the Hub: {finding}; {hint}")]
    Unreachable {
        /// Model or data set.
        kind: RepoKind,
        /// The repository.
        repo: String,
        /// The reason.
        finding: String,
        /// The remedy.
        hint: String,
    },

    /// A downloaded file differs from the announced one.
    #[error("{} is a corrupt download: expected {expected}, found {found}; it was removed", path.display())]
    WrongDownload {
        /// The file.
        path: PathBuf,
        /// Its announced size or checksum, in words.
        expected: String,
        /// The size or checksum of the download.
        found: String,
    },

    /// The operating system refused to read or write a file.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The failed action, as a verb: "read", "remove".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// The result type of this crate.
pub type Result<T, E = HubError> = std::result::Result<T, E>;
