//! Image transforms: preprocessing, normalization, augmentation.

pub(crate) mod augment;
pub(crate) mod center_crop;
pub(crate) mod fit;
pub(crate) mod interpolation;
pub(crate) mod mixup_cutmix;
pub(crate) mod normalize;
pub(crate) mod pillow_resize;
pub(crate) mod preprocess;
pub(crate) mod rand_augment;
pub(crate) mod random_erasing;
pub(crate) mod rectangle;
pub(crate) mod resample;
pub(crate) mod transformers_preprocessing;
pub(crate) mod uniform;
