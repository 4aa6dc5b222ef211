//! Conversion to and from `candle_datasets::vision::Dataset`.
//!
//! There, images are f32 `[count, 3, height, width]` in `[0, 1]`, all of one size, and labels are
//! u8 `[count]`. A pixel `k` becomes exactly `k / 255` and converts back to `k`.

use candle_core::{DType, Device, Tensor};
use candle_datasets::vision;

use crate::dataset::Dataset;
use crate::dataset::image::{CHANNELS, Image};
use crate::error::{DataError, Result};

/// The largest number of classes whose labels fit u8.
const U8_CLASSES: usize = 256;

/// Converts a training and a test set to a candle-datasets data set on the CPU. Labels are u8, or
/// u32 for more than 256 classes.
///
/// # Errors
/// When the images differ in size, or the two sets in their classes.
///
/// ```
/// use perceiver_data::{Dataset, Image, interchange};
///
/// let picture = Image::new(1, 2, vec![0, 51, 102, 153, 204, 255])?;
/// let classes = vec!["cat".to_owned(), "dog".to_owned()];
/// let pets = Dataset::new("pets", vec![picture], vec![1], classes)?;
/// let candle = interchange::to_candle(&pets, &pets)?;
/// assert_eq!(candle.train_images.dims(), [1, 3, 1, 2]);
/// assert_eq!(candle.test_images.flatten_all()?.to_vec1::<f32>()?, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
/// assert_eq!(candle.test_labels.to_vec1::<u8>()?, [1]);
/// # Ok::<(), perceiver_data::DataError>(())
/// ```
pub fn to_candle(train: &Dataset, test: &Dataset) -> Result<vision::Dataset> {
    if train.classes() != test.classes() {
        return Err(DataError::Inconsistent {
            name: test.name().to_owned(),
            expected: format!("the {} classes of {}", train.classes().len(), train.name()),
            found: format!("{} other classes", test.classes().len()),
        });
    }
    let size = |image: &Image| (image.height(), image.width());
    let (height, width) = train
        .images()
        .first()
        .or(test.images().first())
        .map_or((0, 0), size);
    let images = |dataset: &Dataset| -> Result<Tensor> {
        if let Some(at) = dataset
            .images()
            .iter()
            .position(|image| size(image) != (height, width))
        {
            let (found_height, found_width) = size(&dataset.images()[at]);
            return Err(DataError::Inconsistent {
                name: dataset.name().to_owned(),
                expected: format!("images of one size, {height} x {width}"),
                found: format!("image {at} of {found_height} x {found_width}"),
            });
        }
        let shape = (dataset.len(), CHANNELS, height, width);
        let pixels = dataset.images().iter().flat_map(Image::pixels);
        let pixels: Vec<f32> = pixels.map(|&pixel| f32::from(pixel) / 255.0).collect();
        Ok(Tensor::from_vec(pixels, shape, &Device::Cpu)?)
    };
    let dtype = match train.classes().len() {
        0..=U8_CLASSES => DType::U8,
        _ => DType::U32,
    };
    let labels = |dataset: &Dataset| -> Result<Tensor> {
        let labels = Tensor::new(dataset.labels(), &Device::Cpu)?;
        Ok(labels.to_dtype(dtype)?)
    };
    Ok(vision::Dataset {
        train_images: images(train)?,
        train_labels: labels(train)?,
        test_images: images(test)?,
        test_labels: labels(test)?,
        labels: train.classes().len(),
    })
}

/// Converts a candle-datasets data set of RGB images to a training and a test set called `name`.
/// Class names are the class numbers.
///
/// # Errors
/// When the images are not `[count, 3, height, width]`, or the labels are not one per image and
/// below `labels`.
pub fn from_candle(name: &str, data: &vision::Dataset) -> Result<(Dataset, Dataset)> {
    let classes: Vec<String> = (0..data.labels).map(|class| class.to_string()).collect();
    let part = |images: &Tensor, labels: &Tensor| {
        let labels = labels.to_dtype(DType::U32)?.to_vec1()?;
        Dataset::new(name, to_images(name, images)?, labels, classes.clone())
    };
    let train = part(&data.train_images, &data.train_labels)?;
    Ok((train, part(&data.test_images, &data.test_labels)?))
}

/// Converts a tensor `[count, 3, height, width]` in `[0, 1]` to images.
fn to_images(name: &str, images: &Tensor) -> Result<Vec<Image>> {
    let &[_, CHANNELS, height, width] = images.dims() else {
        return Err(DataError::Inconsistent {
            name: name.to_owned(),
            expected: "RGB images, [count, 3, height, width]".into(),
            found: format!("a tensor of shape {:?}", images.dims()),
        });
    };
    let pixels = images
        .to_dtype(DType::F32)?
        .flatten_all()?
        .to_vec1::<f32>()?;
    // `as u8` saturates: values outside `[0, 1]` become black or white.
    let pixels: Vec<u8> = pixels
        .into_iter()
        .map(|value| (value * 255.0).round() as u8)
        .collect();
    pixels
        .chunks((CHANNELS * height * width).max(1))
        .map(|pixels| Image::new(height, width, pixels.to_vec()))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn dataset(sizes: &[(usize, usize)], seed: u8) -> Dataset {
        let image = |(at, &(height, width)): (usize, &(usize, usize))| {
            let pixel = |index: usize| (index as u8).wrapping_mul(31) ^ seed ^ at as u8;
            Image::new(
                height,
                width,
                (0..CHANNELS * height * width).map(pixel).collect(),
            )
            .unwrap()
        };
        let images: Vec<Image> = sizes.iter().enumerate().map(image).collect();
        let labels = (0..images.len() as u32).map(|label| label % 3).collect();
        let classes = ["0", "1", "2"].map(String::from).to_vec();
        Dataset::new("toy", images, labels, classes).unwrap()
    }

    proptest! {
        #[test]
        fn conversion_to_tensors_and_back_is_lossless(train in 1_usize..5, test in 0_usize..4, height in 1_usize..6, width in 1_usize..6, seed: u8) {
            let train = dataset(&vec![(height, width); train], seed);
            let test = dataset(&vec![(height, width); test], !seed);
            let candle = to_candle(&train, &test).unwrap();
            let (train_again, test_again) = from_candle("toy", &candle).unwrap();
            prop_assert_eq!(train_again.sha256(), train.sha256());
            prop_assert_eq!(test_again.sha256(), test.sha256());
        }
    }

    #[test]
    fn images_of_two_sizes_are_rejected() {
        let train = dataset(&[(2, 3), (2, 3)], 0);
        let test = dataset(&[(2, 3), (3, 2)], 0);
        let error = to_candle(&train, &test).err().unwrap().to_string();
        assert_eq!(
            error,
            "data set toy: expected images of one size, 2 x 3, found image 1 of 3 x 2"
        );
    }

    #[test]
    fn grayscale_images_are_rejected() {
        let mut candle = to_candle(&dataset(&[(2, 2)], 0), &dataset(&[(2, 2)], 0)).unwrap();
        candle.train_images = Tensor::zeros((1, 784), DType::F32, &Device::Cpu).unwrap();
        let error = from_candle("mnist", &candle).unwrap_err().to_string();
        assert!(
            error.contains("found a tensor of shape [1, 784]"),
            "{error}"
        );
    }

    #[test]
    fn more_than_256_classes_use_u32_labels() {
        let image = Image::new(1, 1, vec![1, 2, 3]).unwrap();
        let classes = (0..300).map(|class: u32| class.to_string()).collect();
        let wide = Dataset::new("wide", vec![image], vec![299], classes).unwrap();
        let candle = to_candle(&wide, &wide).unwrap();
        assert_eq!(candle.train_labels.to_vec1::<u32>().unwrap(), [299]);
        assert_eq!(from_candle("wide", &candle).unwrap().0.labels(), [299]);
    }
}
