//! Errors of starting and running a server; requests have [`ApiError`](crate::http::api_error).

use std::io;
use std::net::SocketAddr;

use perceiver_model::ModelError;
use perceiver_report::ReportError;

/// An error that keeps a server from starting, or ends it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error(
        "address {address}: expected one to listen on, found: {source}; choose another port, or 0 for any that is free"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The error of the operating system.
        source: io::Error,
    },

    /// A setting is out of its range.
    #[error("{setting}: expected {expected}, found {found}")]
    Setting {
        /// The field of [`ServeConfig`](crate::ServeConfig) or [`Limits`](crate::Limits).
        setting: &'static str,
        /// The accepted values, in words.
        expected: String,
        /// The value given.
        found: String,
    },

    /// Threads, signals or sockets of the operating system failed.
    #[error("cannot {action}: {source}")]
    System {
        /// The attempted action, as a verb with its object.
        action: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },

    /// Requests were still unanswered when the time for stopping was over.
    #[error(
        "stopping: expected every request to be answered within {seconds} s, found {open} open connections; raise \
         `stop_timeout`"
    )]
    Unfinished {
        /// The seconds waited.
        seconds: u64,
        /// The number of connections that were closed.
        open: usize,
    },

    /// The run cannot be read or shown.
    #[error(transparent)]
    Report(Box<ReportError>),

    /// The architecture of the checkpoint cannot be described.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// A `Result` with [`ServeError`].
pub type Result<T, E = ServeError> = std::result::Result<T, E>;
