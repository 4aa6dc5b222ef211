//! Parquet shards: index and random access to rows.

use std::path::Path;

use crate::error::Result;
use crate::formats::file_labels::FileLabels;
use crate::formats::parquet::ParquetOptions;
use crate::formats::parquet::file::{ParquetFile, contain_panics};
use crate::formats::shards::columns::ShardColumns;

/// Reads the labels of all rows, with their classes.
pub(crate) fn index(path: &Path, columns: &ShardColumns) -> Result<FileLabels> {
    contain_panics(path, || {
        ParquetFile::open(path, &options(columns))?.labels()
    })
}

/// Reads the encoded images of ascending rows; a row without an image has no bytes.
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
