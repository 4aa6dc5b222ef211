//! Sharded data sets, streamed from tar (WebDataset) or Parquet files; they may be larger than
//! memory.
//!
//! ```text
//! root/train-00000.tar  root/train-00001.tar ...  training
//! root/test-00000.tar ...                         test; by default the validation shards
//! root/validation-00000.tar ...                   validation; by default a share of training
//! root/classes.txt                                class names, one per line
//! ```
//!
//! Shards may also lie in folders named after their split (`root/train/00000.tar`), and be Parquet
//! files in the layout of the Hugging Face Hub (with the crate's feature `parquet`). The shards of
//! a split are sorted by path. In a tar file, in WebDataset's layout, the files of one sample are
//! adjacent and share the name up to the first dot: `0017.jpg` (or another image file) is the
//! image, `0017.cls` its class as a number; others are skipped. Without `classes.txt`, the names
//! come from Parquet's metadata, or the classes are numbers.
//!
//! Memory holds 28 bytes per image, for its location, label and split, and the windows of encoded
//! images of a [`Loader`](crate::Loader).

mod columns;
mod compression;
mod dataset;
mod fingerprint;
mod folder;
#[cfg(feature = "parquet")]
mod parquet;
mod shard;
mod survey;
mod tar;
mod unpaired_files;
mod writer;

pub(crate) use dataset::Encoded;
pub use dataset::ShardedDataset;
pub use fingerprint::ShardFile;
pub use folder::ShardFolder;
pub use survey::Survey;
pub use writer::ShardWriter;

#[cfg(all(test, feature = "parquet"))]
pub(crate) use columns::ShardColumns;
#[cfg(all(test, feature = "parquet"))]
pub(crate) use parquet::{index as parquet_index, read as parquet_read};

#[cfg(test)]
mod tests;
