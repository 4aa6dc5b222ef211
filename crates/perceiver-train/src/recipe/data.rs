//! The table `[data]` of a recipe.

use std::path::PathBuf;

use perceiver_data::{
    Augmentation, BrokenImages, Fit, Labels, Normalization, Source, TransformersPreprocessing,
};
use serde::{Deserialize, Serialize};

/// The data set and the preprocessing of images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataRecipe {
    /// The data set.
    pub dataset: Source,
    /// The directory of downloaded data sets.
    pub data_dir: PathBuf,
    /// The label set: classes or coarse groups.
    pub labels: Labels,
    /// The seed that draws the test split of a folder without splits, the order of folders and of
    /// the Hub's data sets, and the validation part of shards and of stratified splits. It does not
    /// depend on the training seed. None in recipes of earlier versions, which used the training
    /// seed.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "crate::recipe::seed::optional"
    )]
    pub split_seed: Option<u64>,
    /// Whether to validate on the data set's own validation split, if it has one. None in recipes
    /// of earlier versions, which did so for shards only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_validation_split: Option<bool>,
    /// How validation images are chosen, if there is no validation split. None in recipes of earlier
    /// versions: the tail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_split: Option<ValidationSplit>,
    /// The share of training images to validate on, if there is no validation split: Keras's
    /// `validation_split`.
    pub validation_fraction: f64,
    /// The number of training images to use, the first ones, including those cut off for
    /// validation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_train: Option<usize>,
    /// The number of test images to use, the first ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_test: Option<usize>,
    /// The treatment of unreadable images of folders, of shards and of the Hub.
    pub broken_images: BrokenImages,
    /// The size of the shuffle buffer for shards: encoded training images in memory, over all
    /// ranks.
    pub shuffle_buffer: usize,
    /// Whether downscaling averages over the pixels that it drops.
    pub antialias: bool,
    /// The treatment of images that are not square: stretched, cropped or padded.
    pub fit: Fit,
    /// Whether test results use test-time flip: the mean probabilities of an image and its mirror
    /// image.
    pub test_time_flip: bool,
    /// Mean and variance of each channel to normalize with, instead of those of the training
    /// images. A run initialized from a checkpoint uses the checkpoint's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normalization: Option<Normalization>,
    /// The preprocessing of a checkpoint of transformers, by the keys of its
    /// `preprocessor_config.json`, in place of `antialias`, `fit` and `normalization`. A run
    /// initialized from such a checkpoint uses the checkpoint's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transformers_preprocessing: Option<TransformersPreprocessing>,
    /// Random augmentation of training images.
    pub augmentation: Augmentation,
}

/// The choice of validation images among training images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ValidationSplit {
    /// The tail of CIFAR and of the embedded shapes, whose order is random, as in the Keras example;
    /// of other data a share of every class.
    #[default]
    Auto,
    /// The last images, as Keras's `validation_split`.
    Tail,
    /// The same share of every class, drawn by the split seed.
    Stratified,
}

impl Default for DataRecipe {
    fn default() -> Self {
        Self {
            dataset: Source::Cifar100,
            data_dir: PathBuf::from("data"),
            labels: Labels::Fine,
            split_seed: Some(0),
            use_validation_split: Some(true),
            validation_split: Some(ValidationSplit::Auto),
            validation_fraction: 0.1,
            limit_train: None,
            limit_test: None,
            broken_images: BrokenImages::Skip,
            shuffle_buffer: 4096,
            antialias: false,
            fit: Fit::Stretch,
            test_time_flip: false,
            normalization: None,
            transformers_preprocessing: None,
            augmentation: Augmentation {
                horizontal_flip: true,
                zoom: 0.2,
                ..Augmentation::default()
            },
        }
    }
}

impl DataRecipe {
    /// Returns whether validation uses the data set's own validation split, if it has one.
    pub fn uses_validation_split(&self) -> bool {
        let in_earlier_versions = matches!(self.dataset, Source::Shards { .. });
        self.use_validation_split.unwrap_or(in_earlier_versions)
    }

    /// Returns whether the validation images of `source` are a share of every class.
    pub(crate) fn stratifies(&self, source: &Source) -> bool {
        match self.validation_split {
            None | Some(ValidationSplit::Tail) => false,
            Some(ValidationSplit::Stratified) => true,
            Some(ValidationSplit::Auto) => {
                !matches!(source, Source::Cifar100 | Source::Cifar10 | Source::Shapes)
            }
        }
    }
}
