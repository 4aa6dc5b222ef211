//! Options for loading a data set.

use std::path::PathBuf;
use std::sync::Arc;

use crate::dataset::labels::Labels;
use crate::formats::broken_images::BrokenImages;
use crate::formats::image_folder::listing::FolderListing;
use crate::progress::ProgressCallback;

/// Options for loading a [`Source`](crate::Source); each source uses those that apply to it.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadOptions {
    /// The directory that contains CIFAR's directories; `data` by default.
    pub data_dir: PathBuf,
    /// Fine classes or coarse groups.
    pub labels: Labels,
    /// The shorter side in pixels that images of folders, shards and the Hub are downscaled to; 64
    /// by default.
    pub shorter_side: usize,
    /// The share of each class held out for testing from a folder without splits; 0.2 by default.
    pub test_fraction: f64,
    /// The seed of a folder's order and split, and of the Hub's order; 0 by default.
    pub seed: u64,
    /// The callback for progress; none by default.
    pub watcher: ProgressCallback,
    /// The handling of unreadable images in folders, in shards and on the Hub; skipped by default.
    pub broken: BrokenImages,
    /// The maximum number of images of a split, the first ones; all by default. The embedded shapes
    /// generate no others.
    pub limit: Option<usize>,
    /// An existing listing of a folder's files; see [`Source::listing`](crate::Source::listing).
    pub listing: Option<Arc<FolderListing>>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("data"),
            labels: Labels::Fine,
            shorter_side: 64,
            test_fraction: 0.2,
            seed: 0,
            watcher: ProgressCallback::default(),
            broken: BrokenImages::Skip,
            limit: None,
            listing: None,
        }
    }
}
