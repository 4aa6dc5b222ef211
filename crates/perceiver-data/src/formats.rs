//! Data set formats: CIFAR, image folders, Parquet, shards, the Hub, and the generated shapes.

pub(crate) mod broken_images;
pub(crate) mod cifar;
pub(crate) mod file_labels;
#[cfg(feature = "hub")]
pub(crate) mod hub;
pub(crate) mod image_folder;
pub(crate) mod load_options;
#[cfg(feature = "parquet")]
pub(crate) mod parquet;
pub(crate) mod shapes;
pub(crate) mod shards;
pub(crate) mod tar_entries;
