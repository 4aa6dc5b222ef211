//! Labelled images, from files to batches: data sets, normalization, augmentation and a loader
//! whose batches depend only on the seed.
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
//!     transformers: None,
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
//! let batch = loader.epoch(0, 0).next().expect("9,000 images make a batch")?;
//! assert_eq!(batch.images.dims(), [64, 3, 64, 64]); // [batch, channels, height, width], f32
//! assert_eq!(batch.labels.dims(), [64]);
//! # Ok::<(), perceiver_data::DataError>(())
//! ```
//!
//! A [`Source`] names the origin of a [`Dataset`]: the binary files of [`Cifar`], an
//! [`ImageFolder`], the Hugging Face Hub (feature `hub`), Parquet files (feature `parquet`) or the
//! embedded [`shapes`](shapes()). Images stay 8-bit [`Image`]s in memory, or encoded in shards
//! ([`ShardFolder`]), until a [`Loader`] builds a batch with [`Preprocessing`] and
//! [`Augmentation`]. Every error in the data is a variant of [`DataError`] that names the file, the
//! expected value and the value found.

mod contain_panics; // panics of decoders as errors
mod dataset; // images with labels in memory
mod decode; // PNG, JPEG, WebP, BMP, GIF and TIFF
mod error; // error type
mod formats; // CIFAR, image folders, Parquet, shards, the Hub, shapes
mod hex; // hexadecimal checksums
mod image_formats; // formats and extensions of images
mod loader; // shuffled, augmented, prefetched batches
mod progress; // loading progress
mod source; // data sets by name
mod transforms; // resize, normalize, augment

#[cfg(feature = "candle-datasets")]
pub use dataset::candle as interchange;
pub use dataset::class_names::{MAX_CLASSES, read_class_names};
pub use dataset::image::{CHANNELS, Image};
pub use dataset::labels::Labels;
pub use dataset::part::Part;
pub use dataset::{Dataset, Groups, Split, TestSplit};
pub use decode::{MAX_DECODED_BYTES, MAX_ENCODED_BYTES};
pub use error::{BoxError, DataError, Result};
pub use formats::broken_images::BrokenImages;
pub use formats::cifar::{Cifar, CifarRecord};
#[cfg(feature = "hub")]
pub use formats::hub::HubDataset;
pub use formats::image_folder::files::{image_files, open_all};
pub use formats::image_folder::listing::FolderListing;
pub use formats::image_folder::skipped::PassedOver;
pub use formats::image_folder::{FolderFiles, ImageFolder};
pub use formats::load_options::LoadOptions;
#[cfg(feature = "parquet")]
pub use formats::parquet::named_vectors::{
    NamedVectorWriter, NamedVectors, VectorName, read_named_vectors,
};
#[cfg(feature = "parquet")]
pub use formats::parquet::writer::write_parquet;
#[cfg(feature = "parquet")]
pub use formats::parquet::{ParquetOptions, read_parquet};
pub use formats::shapes::shapes;
pub use formats::shards::{ShardFile, ShardFolder, ShardWriter, ShardedDataset, Survey};
pub use formats::tar_entries::{
    Forward, LimitedReader, MAX_TAR_HEADER_BYTES, TarArchive, TarEntries,
};
pub use hex::hex;
pub use image_formats::READABLE_FORMATS;
pub use loader::Loader;
pub use loader::batch::{Batch, Mixed};
pub use loader::config::LoaderConfig;
pub use loader::epoch::Epoch;
#[cfg(feature = "hub")]
pub use perceiver_hub::{HubAccess, HubProgress, OnProgress};
pub use progress::{LoadProgress, ProgressCallback, Work};
pub use source::Source;
pub use source::image_sizes::ImageSizes;
pub use source::map_dataset::{MapDataset, MappedSamples};
pub use source::samples::Samples;
pub use transforms::augment::{Augmentation, Draw};
pub use transforms::center_crop::{CropOffset, center_crop};
pub use transforms::fit::Fit;
pub use transforms::interpolation::Interpolation;
pub use transforms::mixup_cutmix::Mixing;
pub use transforms::normalize::{ChannelSums, Normalization};
pub use transforms::pillow_resize::filter::PillowFilter;
pub use transforms::pillow_resize::pillow_resize;
pub use transforms::preprocess::Preprocessing;
pub use transforms::rand_augment::RandAugment;
pub use transforms::random_erasing::Erasing;
pub use transforms::resample::resample;
pub use transforms::transformers_preprocessing::{Sides, TransformersPreprocessing};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDocTests;
