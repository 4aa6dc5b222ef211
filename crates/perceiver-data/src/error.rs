//! Every way in which data can be wrong, one variant each.

use std::io;
use std::path::PathBuf;

use crate::image_formats::READABLE_FORMATS;

/// Why a data set, a picture or an option was refused. Every message names the file or option, what was
/// expected there and what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
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

    /// A file or directory that the data set consists of is not there.
    #[error("{} is missing: expected {expected}", path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
        /// What should be there.
        expected: String,
    },

    /// A file is truncated, or longer than its format allows.
    #[error("{} has {found} bytes: expected {expected}", path.display())]
    WrongSize {
        /// The file.
        path: PathBuf,
        /// The size its format demands, in words.
        expected: String,
        /// Its size in bytes.
        found: u64,
    },

    /// A label names a class that does not exist.
    #[error("{}: record {record} has label {label}: expected 0 to {}", path.display(), classes.saturating_sub(1))]
    LabelOutOfRange {
        /// The file, or the name of the data set.
        path: PathBuf,
        /// Which record, from 0.
        record: usize,
        /// Its label.
        label: i64,
        /// The number of classes.
        classes: usize,
    },

    /// The bytes are no picture, or one that cannot be decoded.
    #[error("{} is not a readable picture: expected {READABLE_FORMATS}, found {finding}", path.display())]
    NotAnImage {
        /// The file, or where in a data set the bytes come from.
        path: PathBuf,
        /// What the decoder found.
        finding: String,
    },

    /// A picture would take more memory than any honest one.
    #[error(
        "{} is too large: {width} x {height} pixels take {} MiB to decode, expected at most {} MiB",
        path.display(), needed.div_ceil(1 << 20), limit >> 20
    )]
    TooManyPixels {
        /// The file, or where in a data set the bytes come from.
        path: PathBuf,
        /// Its height in pixels.
        height: u32,
        /// Its width in pixels.
        width: u32,
        /// The bytes that decoding it would take.
        needed: u64,
        /// The most bytes that decoding may take.
        limit: u64,
    },

    /// A class directory holds no picture.
    #[error(
        "class folder {} is empty: expected at least one {READABLE_FORMATS} file{}",
        path.display(),
        found.as_ref().map(|found| format!(", found {found}")).unwrap_or_default()
    )]
    EmptyClass {
        /// The class directory.
        path: PathBuf,
        /// The files that are there instead, in words, if there are some.
        found: Option<String>,
    },

    /// No picture of a class can be read.
    #[error(
        "data set {name}: class {class:?} has no picture left: expected one that can be read, found {pictures} that cannot"
    )]
    UnreadableClass {
        /// The data set.
        name: String,
        /// The class.
        class: String,
        /// The number of its pictures.
        pictures: usize,
    },

    /// Pixels do not fill the picture they belong to.
    #[error("{what}: expected {expected} bytes of pixels, found {found}")]
    WrongPixelCount {
        /// The picture, in words.
        what: String,
        /// channels * height * width.
        expected: usize,
        /// The number of bytes given.
        found: usize,
    },

    /// Classes are told by their numbers, and most numbers do not occur.
    #[error(
        "{}: expected labels from 0 on without large gaps, found {used} different ones up to {largest}, none of {} to {}; if they are \
         numbers of classes, name all classes in a classes.txt, a line each",
        path.display(), gap.0, gap.1
    )]
    SparseLabels {
        /// The data set.
        path: PathBuf,
        /// How many different labels there are.
        used: usize,
        /// The largest of them.
        largest: u32,
        /// The first and the last number of the first gap.
        gap: (u32, u32),
    },

    /// There are images of a class that the training split or the model does not have.
    #[error("{name}: expected images of the classes {expected}, found class {found}")]
    OtherClasses {
        /// The data set, or the file.
        name: String,
        /// The first classes of the training split or the model.
        expected: String,
        /// The first class that is none of them, how many more there are, and what to do.
        found: String,
    },

    /// The parts of a data set disagree with one another.
    #[error("data set {name}: expected {expected}, found {found}")]
    Inconsistent {
        /// The data set.
        name: String,
        /// What was expected, in words.
        expected: String,
        /// What was found, in words.
        found: String,
    },

    /// A file is not Parquet, or is damaged.
    #[error("{} cannot be read as Parquet: found {finding}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What was found in it.
        finding: String,
    },

    /// A Parquet file lacks a column, or has it with another type.
    #[error("{}: expected {expected}, found the columns {found}", path.display())]
    Column {
        /// The file.
        path: PathBuf,
        /// The column that was looked for, in words.
        expected: String,
        /// The columns that are there, with their types.
        found: String,
    },

    /// A shard is damaged, or has something else in it.
    #[error("{}: expected {expected}, found {found}", path.display())]
    Shard {
        /// The file.
        path: PathBuf,
        /// What was expected, in words.
        expected: String,
        /// What was found, in words.
        found: String,
    },

    /// A downloaded file is not the one that its server announced.
    #[error("{} is not what was announced: expected {expected}, found {found}; it was removed", path.display())]
    WrongDownload {
        /// The file.
        path: PathBuf,
        /// Its announced size or checksum, in words.
        expected: String,
        /// What arrived.
        found: String,
    },

    /// A data set cannot be had from the Hugging Face Hub.
    #[error("data set {repo} on the Hub: {finding}; {hint}")]
    Hub {
        /// The repository.
        repo: String,
        /// What went wrong.
        finding: String,
        /// What to do about it.
        hint: String,
    },

    /// The data is of a kind whose reader was left out of this build.
    #[error("{what} needs the Cargo feature `{feature}`, which this program was built without")]
    NotBuiltIn {
        /// The file or data set.
        what: String,
        /// The feature of this crate that brings the reader.
        feature: &'static str,
    },

    /// An option has a value it cannot have.
    #[error("{option}: expected {expected}, found {found}")]
    InvalidOption {
        /// The option.
        option: &'static str,
        /// What is accepted, in words.
        expected: String,
        /// What was given.
        found: String,
    },

    /// The loader's threads could not be started, or stopped before their work was done.
    #[error("the loader: expected batches to the end of the epoch, found: {reason}")]
    Loader {
        /// What the operating system, or the panic, said.
        reason: String,
    },

    /// candle refused a tensor operation.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// The result of reading or preparing data.
pub type Result<T> = std::result::Result<T, DataError>;
