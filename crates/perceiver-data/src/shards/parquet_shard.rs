//! A Parquet file of pictures and labels, as the Hugging Face Hub has them, read row by row.

use std::path::Path;

use crate::error::Result;
use crate::file_labels::FileLabels;
use crate::parquet::ParquetOptions;
use crate::parquet_file::{ParquetFile, contain_panics};
use crate::shards::shard::ShardColumns;

/// The labels of all rows, and what they are labels of.
pub(crate) fn index(path: &Path, columns: &ShardColumns) -> Result<FileLabels> {
    contain_panics(path, || {
        ParquetFile::open(path, &options(columns))?.labels()
    })
}

/// The encoded pictures of these rows, which ascend; a row without one has no bytes.
pub(crate) fn read(path: &Path, columns: &ShardColumns, rows: &[usize]) -> Result<Vec<Vec<u8>>> {
    contain_panics(path, || {
        ParquetFile::open(path, &options(columns))?.encoded(rows)
    })
}

fn options(columns: &ShardColumns) -> ParquetOptions {
    ParquetOptions {
        image_column: columns.image.clone(),
        label_column: columns.label.clone(),
        ..ParquetOptions::default()
    }
}
