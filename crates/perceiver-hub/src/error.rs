//! Every way in which a transfer can fail, one variant each.

use std::io;
use std::path::PathBuf;

use crate::repository::RepoKind;

/// Why the Hub, the cache or a downloaded file was refused. No message ever holds a token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A text that is no repository's name.
    #[error("Hub repository: expected {expected}, found {found}")]
    Name {
        /// What a name looks like, in words.
        expected: &'static str,
        /// The text.
        found: String,
    },

    /// A text that is neither a directory nor the name of a model.
    #[error(
        "expected an existing directory, or a model on the Hub as USER/NAME or USER/NAME@REVISION, found {found:?}"
    )]
    NoModel {
        /// The text.
        found: String,
    },

    /// The Hub, or the cache in its place, does not give or take what was asked for.
    #[error("{kind} {repo} on the Hub: {finding}; {hint}")]
    Refused {
        /// Model or data set.
        kind: RepoKind,
        /// The repository.
        repo: String,
        /// What went wrong.
        finding: String,
        /// What to do about it.
        hint: String,
    },

    /// The Hub cannot be reached, or breaks off.
    #[error("{kind} {repo} on the Hub: {finding}; {hint}")]
    Unreachable {
        /// Model or data set.
        kind: RepoKind,
        /// The repository.
        repo: String,
        /// What went wrong.
        finding: String,
        /// What to do about it.
        hint: String,
    },

    /// A file is not the one that the Hub announced.
    #[error("{} is not what was announced: expected {expected}, found {found}; it was removed", path.display())]
    WrongDownload {
        /// The file.
        path: PathBuf,
        /// Its announced size or checksum, in words.
        expected: String,
        /// What arrived.
        found: String,
    },

    /// The operating system refused to read or write a file.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done, as a verb: "read", "remove".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
}

/// The result of a transfer.
pub type Result<T> = std::result::Result<T, HubError>;
