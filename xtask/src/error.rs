//! Errors of the workspace's tasks.

use std::io;
use std::path::PathBuf;

/// An error of a task. Every message names the file or URL, the expected and the found value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum XtaskError {
    /// The operating system failed to read or write a file.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The operation, as a verb: "read", "create".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },

    /// A file or a checksum is wrong.
    #[error("{}: expected {expected}, found {found}", path.display())]
    WrongContent {
        /// The file.
        path: PathBuf,
        /// The expectation, in words.
        expected: String,
        /// The value found.
        found: String,
    },

    /// A server responded, but not with the file.
    #[error("{url}: expected {expected}, found {found}")]
    UnexpectedResponse {
        /// The URL.
        url: String,
        /// The expectation, in words.
        expected: String,
        /// The response.
        found: String,
    },

    /// No response, or an incomplete one, after all retries.
    #[error(
        "cannot download {url}: {finding}; on a machine without a network, download that file on another one, copy it here and run: \
         cargo xtask fetch-data --dataset {dataset} --from PATH/TO/{archive}"
    )]
    Unreachable {
        /// The URL.
        url: String,
        /// The last failure.
        finding: String,
        /// The name of the data set, as in `--dataset`.
        dataset: String,
        /// The file name of the archive.
        archive: String,
    },

    /// An archive has an entry that no data set needs and that could do harm.
    #[error("{}: refused to unpack entry {entry:?}: {finding}", path.display())]
    UnsafeArchive {
        /// The archive.
        path: PathBuf,
        /// The name of the entry.
        entry: String,
        /// The reason.
        finding: String,
    },

    /// `--from` does not name a valid source.
    #[error(
        "--from {found}: expected a directory with {directory}, a .tar.gz archive or an http(s) address"
    )]
    NoSource {
        /// The value given.
        found: String,
        /// The directory of the data set.
        directory: String,
    },

    /// Writing to standard output failed.
    #[error(transparent)]
    Output(#[from] perceiver_cli::terminal::OutputError),

    /// The Hub or its data failed.
    #[error(transparent)]
    Data(#[from] perceiver_data::DataError),

    /// Python, or a package for it, is missing.
    #[error(
        "{python} cannot run the Keras oracle: {finding}; create an environment for it with: \
         python3 -m venv .venv && .venv/bin/pip install {packages}; and run: \
         cargo xtask goldens --python .venv/bin/python"
    )]
    NoOracle {
        /// The interpreter.
        python: String,
        /// The error message.
        finding: String,
        /// The packages to install.
        packages: &'static str,
    },

    /// A script of the oracle failed.
    #[error("{} failed: {finding}", script.display())]
    Oracle {
        /// The script.
        script: PathBuf,
        /// The exit status.
        finding: String,
    },

    /// A process of a benchmark could not be measured.
    #[error("{name} ({command}) could not be measured: {finding}")]
    Contestant {
        /// The name in the report.
        name: String,
        /// The program started.
        command: String,
        /// The exit status and the output.
        finding: String,
    },

    /// Ctrl-C, SIGTERM or SIGHUP while processes of a benchmark were alive.
    #[error("interrupted; the processes of the benchmark were ended")]
    Interrupted,

    /// The Python interpreter cannot run the peers.
    #[error(
        "{python} cannot run the peers: {finding}; create an environment for them with: \
         python3 -m venv .venv && .venv/bin/pip install {packages}; and run: \
         cargo xtask bench --peers .venv/bin/python"
    )]
    NoPeers {
        /// The interpreter.
        python: String,
        /// The error message.
        finding: String,
        /// The packages to install.
        packages: &'static str,
    },

    /// Cargo failed.
    #[error("`cargo {command}` failed: {finding}")]
    Cargo {
        /// The arguments.
        command: String,
        /// The exit status and the output.
        finding: String,
    },

    /// The build exceeds its budget.
    #[error(
        "the build exceeds its budget in xtask/build-budget.toml: {finding}; remove dependencies, or raise the budget \
         and say why"
    )]
    OverBudget {
        /// The excess.
        finding: String,
    },

    /// A plot without runs, or with more runs than colors.
    #[error("runs in one plot: expected 1 to {most}, found {found}")]
    TooManyRuns {
        /// The number of colors.
        most: usize,
        /// The number of runs.
        found: usize,
    },

    /// The model's configuration was rejected.
    #[error(transparent)]
    Model(#[from] perceiver_model::ModelError),

    /// A recipe, a device or a file of a checkpoint was rejected.
    #[error(transparent)]
    Train(#[from] perceiver_train::TrainError),

    /// candle rejected an operation.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl XtaskError {
    /// Returns a function that converts an error of the operating system to [`XtaskError::Io`].
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

/// The result type of the tasks.
pub type Result<T> = std::result::Result<T, XtaskError>;
