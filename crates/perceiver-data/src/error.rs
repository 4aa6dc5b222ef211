//! Errors of data loading, one variant each.

use std::io;
use std::path::PathBuf;

use crate::image_formats::READABLE_FORMATS;

/// An error of a program's own code, such as of a [`MapDataset`](crate::MapDataset).
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An error in a data set, an image or an option. Every message names the file or option, the
/// expected value and the value found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The attempted action, as a verb: "read", "create".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },

    /// A file or directory of the data set is missing.
    #[error("{} is missing: expected {expected}", path.display())]
    Missing {
        /// The expected path.
        path: PathBuf,
        /// A description of the missing file.
        expected: String,
    },

    /// A file is truncated, or longer than its format allows.
    #[error("{} has {found} bytes: expected {expected}", path.display())]
    WrongSize {
        /// The file.
        path: PathBuf,
        /// The size that its format requires, in words.
        expected: String,
        /// Its size in bytes.
        found: u64,
    },

    /// A [`MapDataset`](crate::MapDataset) cannot read an image.
    #[error("{name}: image {index} cannot be read: {source}")]
    MapDataset {
        /// The data set.
        name: String,
        /// The index of the image.
        index: usize,
        /// The error of the data set.
        source: BoxError,
    },

    /// A label is not a valid class index.
    #[error("{}: record {record} has label {label}: expected 0 to {}", path.display(), classes.saturating_sub(1))]
    LabelOutOfRange {
        /// The file, or the name of the data set.
        path: PathBuf,
        /// The index of the record, from 0.
        record: usize,
        /// Its label.
        label: i64,
        /// The number of classes.
        classes: usize,
    },

    /// The bytes are not an image, or cannot be decoded.
    #[error("{} is not a readable image: expected {READABLE_FORMATS}, found {finding}", path.display())]
    NotAnImage {
        /// The file, or the location of the bytes in a data set.
        path: PathBuf,
        /// The decoder's message.
        finding: String,
    },

    /// An image would take more memory to decode than the limit.
    #[error(
        "{} is too large: {width} x {height} pixels take {} MiB to decode, expected at most {} MiB",
        path.display(), needed.div_ceil(1 << 20), limit >> 20
    )]
    TooManyPixels {
        /// The file, or the location of the bytes in a data set.
        path: PathBuf,
        /// Its height in pixels.
        height: u32,
        /// Its width in pixels.
        width: u32,
        /// The bytes that decoding would take.
        needed: u64,
        /// The limit in bytes.
        limit: u64,
    },

    /// A class folder contains no image.
    #[error(
        "class folder {} is empty: expected at least one {READABLE_FORMATS} file{}",
        path.display(),
        found.as_ref().map(|found| format!(", found {found}")).unwrap_or_default()
    )]
    EmptyClass {
        /// The class folder.
        path: PathBuf,
        /// The other files in it, in words, if there are any.
        found: Option<String>,
    },

    /// No image of a class can be read.
    #[error(
        "data set {name}: class {class:?} has no readable image: expected at least one, found {images} unreadable"
    )]
    UnreadableClass {
        /// The data set.
        name: String,
        /// The class.
        class: String,
        /// The number of its images.
        images: usize,
    },

    /// The number of pixels does not match the image size.
    #[error("{what}: expected {expected} bytes of pixels, found {found}")]
    WrongPixelCount {
        /// The image, in words.
        what: String,
        /// `channels * height * width`.
        expected: usize,
        /// The number of bytes given.
        found: usize,
    },

    /// Labels without names are not class numbers, as most numbers do not occur.
    #[error(
        "{}: expected labels from 0 on without large gaps, found {used} distinct labels up to {largest}, none from {} to {}; if they are \
         class indices, list all class names in a classes.txt, one per line",
        path.display(), gap.0, gap.1
    )]
    SparseLabels {
        /// The data set.
        path: PathBuf,
        /// The number of distinct labels.
        used: usize,
        /// The largest label.
        largest: u32,
        /// The first and the last number of the first gap.
        gap: (u32, u32),
    },

    /// Images have a class that the training split or the model lacks.
    #[error("{name}: expected images of the classes {expected}, found class {found}")]
    OtherClasses {
        /// The data set, or the file.
        name: String,
        /// The first classes of the training split or the model.
        expected: String,
        /// The first unknown class, the number of others, and a hint.
        found: String,
    },

    /// Parts of a data set contradict each other.
    #[error("data set {name}: expected {expected}, found {found}")]
    Inconsistent {
        /// The data set.
        name: String,
        /// The expected value, in words.
        expected: String,
        /// The value found, in words.
        found: String,
    },

    /// A file is not Parquet, or is damaged.
    #[error("{} cannot be read as Parquet: found {finding}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// The problem found.
        finding: String,
    },

    /// A Parquet file lacks a column, or has it with another type.
    #[error("{}: expected {expected}, found the columns {found}", path.display())]
    Column {
        /// The file.
        path: PathBuf,
        /// The expected column, in words.
        expected: String,
        /// The columns of the file, with their types.
        found: String,
    },

    /// A shard is damaged or has unexpected content.
    #[error("{}: expected {expected}, found {found}", path.display())]
    Shard {
        /// The file.
        path: PathBuf,
        /// The expected content, in words.
        expected: String,
        /// The content found, in words.
        found: String,
    },

    /// A downloaded file differs from the one that its server announced.
    #[error("{} is a corrupt download: expected {expected}, found {found}; it was removed", path.display())]
    WrongDownload {
        /// The file.
        path: PathBuf,
        /// The announced size or checksum, in words.
        expected: String,
        /// The size or checksum of the download.
        found: String,
    },

    /// A data set is not available from the Hugging Face Hub.
    #[error("data set {repo} on the Hub: {finding}; {hint}")]
    Hub {
        /// The repository.
        repo: String,
        /// The problem.
        finding: String,
        /// A suggested fix.
        hint: String,
    },

    /// The reader of this kind of data is not compiled in.
    #[error("{what} needs the Cargo feature `{feature}`, which this program was built without")]
    NotBuiltIn {
        /// The file or data set.
        what: String,
        /// The Cargo feature of this crate that enables the reader.
        feature: &'static str,
    },

    /// An option has an invalid value.
    #[error("{option}: expected {expected}, found {found}")]
    InvalidOption {
        /// The option.
        option: &'static str,
        /// The accepted values, in words.
        expected: String,
        /// The given value.
        found: String,
    },

    /// A file of options has an invalid one, or another format.
    #[error("{}: {source}", path.display())]
    InvalidFile {
        /// The file.
        path: PathBuf,
        /// The error of its content.
        source: Box<DataError>,
    },

    /// The loader's threads could not be started, or stopped early.
    #[error("data loader: expected batches up to the end of the epoch, found: {reason}")]
    Loader {
        /// The message of the operating system or the panic.
        reason: String,
    },

    /// A candle tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// A `Result` with [`DataError`].
pub type Result<T, E = DataError> = std::result::Result<T, E>;
