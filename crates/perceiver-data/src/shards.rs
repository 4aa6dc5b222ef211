//! Data sets in shards, files of many pictures each, which are read piece by piece: they may be larger than memory.
//!
//! ```text
//! root/train-00000.tar       root/train-00001.tar ...        to learn from
//! root/test-00000.tar ...                                    to be judged by; validation shards where there are none
//! root/validation-00000.tar ...                              to choose by; else a share of the training pictures
//! root/classes.txt                                           the classes' names, one a line
//! ```
//!
//! Shards may also lie in folders called after their part (`root/train/00000.tar`), and be Parquet files as the Hugging Face Hub has
//! them (with the crate's feature `parquet`). A part's shards are sorted by path. In a tar file, as WebDataset writes them, the files of one
//! sample follow one another and are called alike up to the first dot: `0017.jpg` (or another image file) is the
//! picture, `0017.cls` its class as a number; others are passed over. Without `classes.txt`, Parquet's metadata has the names, or the
//! classes are numbers.
//!
//! Kept in memory are 28 bytes a picture, for its place, its label and its part, and a [`Loader`](crate::Loader)'s windows of encoded
//! pictures.

mod compression;
mod file;
mod folder;
mod order;
#[cfg(feature = "parquet")]
mod parquet_shard;
mod shard;
mod stream;
mod streamed;
mod survey;
mod tar_shard;
mod unpaired_files;
mod writer;

pub use file::ShardFile;
pub use folder::ShardFolder;
pub(crate) use stream::{Drawn, Stream};
pub use streamed::Streamed;
pub use survey::Survey;
pub use writer::ShardWriter;

#[cfg(all(test, feature = "parquet"))]
pub(crate) use parquet_shard::{index as parquet_index, read as parquet_read};
#[cfg(all(test, feature = "parquet"))]
pub(crate) use shard::ShardColumns;

#[cfg(test)]
mod tests;
