//! Labelled pictures, from files to batches: data sets, normalization, augmentation and a loader whose batches
//! depend on a seed and on nothing else.
//!
//! ```
//! use std::sync::Arc;
//! use perceiver_data::{
//!     Augmentation, Fit, LoadOptions, Loader, LoaderConfig, Normalization, Preprocessing, Source, Split,
//! };
//!
//! let source: Source = "shapes".parse()?; // or cifar100, cifar10, folder:DIR, shards:DIR, hf:USER/NAME
//! let train = source.load(Split::Train, &LoadOptions::default())?;
//! let preprocessing = Preprocessing {
//!     image_size: 64,
//!     antialias: false,
//!     fit: Fit::Stretch,
//!     normalization: Normalization::adapt(&train)?,
//! };
//! let (train, validation) = train.split_tail(0.1);
//! assert_eq!((train.len(), validation.len()), (9_000, 1_000));
//!
//! let config = LoaderConfig {
//!     shuffle: true,
//!     augmentation: Some(Augmentation { horizontal_flip: true, zoom: 0.2, ..Augmentation::default() }),
//!     ..LoaderConfig::default()
//! };
//! let loader = Loader::new(Arc::new(train), preprocessing, config)?;
//! let batch = loader.epoch(0, 0).next().expect("9,000 pictures make a batch")?;
//! assert_eq!(batch.images.dims(), [64, 3, 64, 64]); // [batch, channels, height, width], f32
//! assert_eq!(batch.labels.dims(), [64]);
//! # Ok::<(), perceiver_data::DataError>(())
//! ```
//!
//! A [`Source`] names where a [`Dataset`] comes from: [`Cifar`]'s binary files, an [`ImageFolder`], the Hugging Face
//! Hub (feature `hub`), Parquet files (feature `parquet`) or the embedded [`shapes`](shapes()). Pictures stay 8-bit [`Image`]s in memory, or where they are in shards
//! ([`ShardFolder`]), until a [`Loader`] makes a batch of them by [`Preprocessing`] and [`Augmentation`]. Whatever can be wrong with data is a
//! variant of [`DataError`] that names the file, what was expected and what was found.

mod augment;
mod batches;
mod broken_pictures;
mod cifar;
mod cifar_reader;
mod cifar_writer;
mod class_folders;
mod class_names;
mod dataset;
mod decode;
mod decode_budget;
mod decode_source;
#[cfg(feature = "parquet")]
mod decompress;
mod epoch;
mod erase;
mod error;
mod file_labels;
mod fit;
mod folder;
mod folder_listing;
mod hex;
#[cfg(feature = "hub")]
mod hub;
#[cfg(feature = "hub")]
mod hub_files;
#[cfg(feature = "hub")]
mod hub_repo;
mod image;
mod image_formats;
mod image_names;
mod image_sizes;
#[cfg(feature = "candle-datasets")]
pub mod interchange;
mod jpeg;
mod jpeg_markers;
mod labels;
mod loader;
mod mix;
mod normalization;
#[cfg(feature = "parquet")]
mod parquet;
#[cfg(feature = "parquet")]
mod parquet_columns;
#[cfg(feature = "parquet")]
mod parquet_delta;
#[cfg(feature = "parquet")]
mod parquet_file;
#[cfg(feature = "parquet")]
mod parquet_footer;
#[cfg(all(test, feature = "parquet"))]
mod parquet_hostile_tests;
#[cfg(feature = "parquet")]
mod parquet_page_header;
#[cfg(feature = "parquet")]
mod parquet_pages;
#[cfg(feature = "parquet")]
mod parquet_writer;
mod passed_over;
mod picture_files;
mod pictures;
mod preprocess;
mod rand_augment;
mod rectangle;
mod resample;
mod shapes;
mod shards;
mod shrink;
mod shuffle;
mod source;
mod source_text;
mod split_names;
mod taps;
mod tar_entries;
#[cfg(feature = "parquet")]
mod thrift_compact;
mod to_rgb;
mod truncation;
mod watcher;

pub use augment::{Augmentation, Draw};
pub use batches::{Batch, Mixed};
pub use broken_pictures::BrokenPictures;
pub use cifar::{Cifar, CifarRecord};
pub use class_names::{MAX_CLASSES, read_class_names};
pub use dataset::{Dataset, Groups, Split, TestSplit};
pub use decode::{MAX_DECODED_BYTES, MAX_ENCODED_BYTES};
pub use epoch::Epoch;
pub use erase::Erasing;
pub use error::{DataError, Result};
pub use fit::Fit;
pub use folder::{FolderFiles, ImageFolder};
pub use folder_listing::FolderListing;
pub use hex::hex;
#[cfg(feature = "hub")]
pub use hub::HubDataset;
pub use image::{CHANNELS, Image};
pub use image_formats::READABLE_FORMATS;
pub use image_sizes::ImageSizes;
pub use labels::Labels;
pub use loader::{Loader, LoaderConfig, Part};
pub use mix::Mixing;
pub use normalization::{ChannelSums, Normalization};
#[cfg(feature = "parquet")]
pub use parquet::{ParquetOptions, read_parquet};
#[cfg(feature = "parquet")]
pub use parquet_writer::write_parquet;
pub use passed_over::PassedOver;
#[cfg(feature = "hub")]
pub use perceiver_hub::{HubAccess, HubProgress, OnProgress};
pub use picture_files::{open_all, picture_files};
pub use pictures::Pictures;
pub use preprocess::Preprocessing;
pub use rand_augment::RandAugment;
pub use resample::resample;
pub use shapes::shapes;
pub use shards::{ShardFile, ShardFolder, ShardWriter, Streamed, Survey};
pub use source::{LoadOptions, Source};
pub use taps::Taps;
pub use tar_entries::{Forward, LimitedReader, MAX_TAR_HEADER_BYTES, TarArchive, TarEntries};
pub use watcher::{Reading, Watcher, Work};
