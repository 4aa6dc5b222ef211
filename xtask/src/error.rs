//! Why a chore was not done.

use std::io;
use std::path::PathBuf;

/// What went wrong. Every message names the file or the address, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum XtaskError {
    /// The operating system refused to read or write a file.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done, as a verb: "read", "create".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },

    /// A file or a checksum is not what it should be.
    #[error("{}: expected {expected}, found {found}", path.display())]
    WrongContent {
        /// The file.
        path: PathBuf,
        /// What was expected, in words.
        expected: String,
        /// What was found.
        found: String,
    },

    /// A server answered, but not with the file.
    #[error("{url}: expected {expected}, found {found}")]
    WrongAnswer {
        /// The address.
        url: String,
        /// What was expected, in words.
        expected: String,
        /// What was answered.
        found: String,
    },

    /// No answer, or none to the end, however often it was tried.
    #[error(
        "cannot download {url}: {finding}; on a machine without a network, download that file on another one, copy it here and run: \
         cargo xtask fetch-data --dataset {dataset} --from PATH/TO/{archive}"
    )]
    Unreachable {
        /// The address.
        url: String,
        /// The last failure.
        finding: String,
        /// The data set's name, as `--dataset` takes it.
        dataset: String,
        /// The file name of its archive.
        archive: String,
    },

    /// An archive has an entry that a data set has no use for and that could do harm.
    #[error("{}: refused to unpack entry {entry:?}: {finding}", path.display())]
    UnsafeArchive {
        /// The archive.
        path: PathBuf,
        /// The entry's name in it.
        entry: String,
        /// Why it was refused.
        finding: String,
    },

    /// `--from` names something that is no source.
    #[error(
        "--from {found}: expected a directory with {directory}, a .tar.gz archive or an http(s) address"
    )]
    NoSource {
        /// What was given.
        found: String,
        /// The directory of the data set.
        directory: String,
    },

    /// Standard output takes no more.
    #[error(transparent)]
    Output(#[from] perceiver_cli::terminal::OutputError),

    /// The Hub or the data from it.
    #[error(transparent)]
    Data(#[from] perceiver_data::DataError),

    /// Python, or a package for it, is missing.
    #[error(
        "{python} cannot run the Keras oracle: {finding}; make an environment for it with: \
         python3 -m venv .venv && .venv/bin/pip install {packages}; and run: \
         cargo xtask goldens --python .venv/bin/python"
    )]
    NoOracle {
        /// The interpreter.
        python: String,
        /// What it said.
        finding: String,
        /// What to install.
        packages: &'static str,
    },

    /// A script of the oracle failed.
    #[error("{} failed: {finding}", script.display())]
    Oracle {
        /// The script.
        script: PathBuf,
        /// How it ended.
        finding: String,
    },

    /// A process of a benchmark could not be measured.
    #[error("{name} ({command}) could not be measured: {finding}")]
    Contestant {
        /// Its name in the report.
        name: String,
        /// What was started.
        command: String,
        /// How it ended and what it said.
        finding: String,
    },

    /// The Python for the peers cannot run them.
    #[error(
        "{python} cannot run the peers: {finding}; make an environment for them with: \
         python3 -m venv .venv && .venv/bin/pip install {packages}; and run: \
         cargo xtask bench --peers .venv/bin/python"
    )]
    NoPeers {
        /// The interpreter.
        python: String,
        /// What it said.
        finding: String,
        /// What to install.
        packages: &'static str,
    },

    /// Cargo did not do what it was asked to.
    #[error("`cargo {command}` failed: {finding}")]
    Cargo {
        /// Its arguments.
        command: String,
        /// How it ended and what it said.
        finding: String,
    },

    /// The build has grown beyond its budget.
    #[error(
        "the build is over its budget in xtask/build-budget.toml: {finding}; leave something out, or raise the budget \
         and say why"
    )]
    OverBudget {
        /// What is too much, and by how much.
        finding: String,
    },

    /// A plot of no run, or of more than there are colours.
    #[error("runs in one plot: expected 1 to {most}, found {found}")]
    TooManyRuns {
        /// The number of colours.
        most: usize,
        /// The number of runs.
        found: usize,
    },

    /// The model's configuration was refused.
    #[error(transparent)]
    Model(#[from] perceiver_model::ModelError),

    /// A recipe, a device or a file of a checkpoint was refused.
    #[error(transparent)]
    Train(#[from] perceiver_train::TrainError),

    /// candle refused an operation.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl XtaskError {
    /// A function that makes an [`XtaskError::Io`] of the operating system's answer.
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

/// The result of a chore.
pub type Result<T> = std::result::Result<T, XtaskError>;
