//! A Parquet file of pictures and labels, as the Hugging Face Hub has them, read row by row.

use std::path::Path;

use crate::error::Result;
use crate::parquet::ParquetOptions;
use crate::parquet_file::{ParquetFile, contain_panics};

/// The labels of all rows, and the classes' names, if the metadata has them.
pub(crate) fn index(path: &Path) -> Result<(Vec<i64>, Option<Vec<String>>)> {
    contain_panics(path, || {
        let file = ParquetFile::open(path, &ParquetOptions::default())?;
        let labels = file.integers(&file.columns.label)?;
        Ok((labels, file.columns.label.names.clone()))
    })
}

/// The encoded pictures of these rows, which ascend.
pub(crate) fn read(path: &Path, rows: &[usize]) -> Result<Vec<Vec<u8>>> {
    contain_panics(path, || {
        ParquetFile::open(path, &ParquetOptions::default())?.encoded(rows)
    })
}
