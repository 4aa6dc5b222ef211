//! The data summary before training: counts, image sizes, resizing.

use perceiver_data::{Fit, ImageSizes, Samples};
use perceiver_report::grouped;
use perceiver_train::{Recipe, TrainingData};

/// Describes image sizes (width x height), their resizing, and the number of images per split.
pub(crate) fn data_summary(recipe: &Recipe, data: &TrainingData) -> String {
    let counts = [
        (Some(data.train.len()), "train"),
        (Some(data.validation.len()), "validation"),
        (test_images(recipe, data), "test"),
    ];
    let preprocessing = &data.preprocessing;
    let sizes = sizes(&data.train, preprocessing.image_size, preprocessing.fit);
    format!("{sizes}; {}", parts(counts))
}

/// Returns the number of test images, if it is known before they are loaded.
fn test_images(recipe: &Recipe, data: &TrainingData) -> Option<usize> {
    let count = data.test_counts.as_ref()?.iter().sum::<usize>();
    Some(count.min(recipe.data.limit_test.unwrap_or(usize::MAX)))
}

fn parts(counts: [(Option<usize>, &str); 3]) -> String {
    let described = counts.map(|(count, part)| match count {
        Some(count) => format!("{} {part}", grouped(count)),
        None => format!("{part} images are counted when they are read"),
    });
    described.join(", ")
}

fn sizes(images: &Samples, side: usize, fit: Fit) -> String {
    let becomes = format!("{side}x{side}");
    match images.sizes() {
        Ok(Some(sizes)) => of_sizes(sizes, &becomes, fit),
        // Errors are reported where the image is read.
        Ok(None) | Err(_) => format!("images -> {becomes}"),
    }
}

fn of_sizes(sizes: ImageSizes, becomes: &str, fit: Fit) -> String {
    let size = format!("{}x{}", sizes.width, sizes.height);
    if sizes.uniform && size == becomes {
        return format!("images of {size}");
    }
    let median = if sizes.uniform { "" } else { " (median)" };
    let done = if sizes.square {
        String::new()
    } else {
        format!(", {}", fit.participle())
    };
    format!("images of {size}{median} -> {becomes}{done}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fit_of_non_square_images_is_described() {
        let mut sizes = ImageSizes {
            height: 600,
            width: 300,
            uniform: false,
            square: false,
        };
        assert_eq!(
            of_sizes(sizes, "32x32", Fit::Stretch),
            "images of 300x600 (median) -> 32x32, stretched"
        );
        sizes.uniform = true;
        assert_eq!(
            of_sizes(sizes, "32x32", Fit::Pad),
            "images of 300x600 -> 32x32, padded"
        );
        (sizes.height, sizes.width, sizes.square) = (32, 32, true);
        assert_eq!(of_sizes(sizes, "32x32", Fit::Crop), "images of 32x32");
        assert_eq!(
            of_sizes(sizes, "64x64", Fit::Crop),
            "images of 32x32 -> 64x64"
        );
    }

    #[test]
    fn parts_are_counted() {
        let counts = |test| {
            [
                (Some(9000), "train"),
                (Some(1000), "validation"),
                (test, "test"),
            ]
        };
        assert_eq!(
            parts(counts(Some(2))),
            "9,000 train, 1,000 validation, 2 test"
        );
        assert!(parts(counts(None)).ends_with("test images are counted when they are read"));
    }
}
