//! User-specified columns of Parquet shards.

/// The columns of Parquet shards that the user specified; others are found by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(not(feature = "parquet"), allow(dead_code))]
pub(crate) struct ShardColumns {
    pub(crate) image: Option<String>,
    pub(crate) label: Option<String>,
}
