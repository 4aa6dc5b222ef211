//! Fits images to a square input: stretch, center crop or pad.
//!
//! Each is a window along each axis that is resized to the input: the whole axis, its middle part,
//! or more than the axis, with the outside empty.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The way a non-square image becomes a square input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// Each side is resized independently, which distorts shapes: Keras's `Resizing`.
    #[default]
    Stretch,
    /// Center crop of the largest square: torchvision's `Resize` and `CenterCrop`.
    Crop,
    /// Letterbox: the whole image, centred in a square of the training images' mean colour.
    Pad,
}

/// The part of an axis that is resized to the input; it may begin before the axis and end after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Window {
    /// The length of the axis in pixels.
    pub(crate) axis: usize,
    /// The first pixel.
    pub(crate) start: isize,
    /// The number of pixels.
    pub(crate) len: usize,
}

impl Fit {
    /// Returns the window along an axis of `axis` pixels, given the length of the other axis.
    pub(crate) fn window(self, axis: usize, other: usize) -> Window {
        let len = match self {
            Self::Stretch => axis,
            Self::Crop => axis.min(other),
            Self::Pad => axis.max(other),
        };
        let start = if len > axis {
            -((len - axis) / 2).cast_signed()
        } else {
            ((axis - len) / 2).cast_signed()
        };
        Window { axis, start, len }
    }

    /// Returns the participle that messages use for a non-square image.
    pub fn participle(self) -> &'static str {
        match self {
            Self::Stretch => "stretched",
            Self::Crop => "cropped",
            Self::Pad => "padded",
        }
    }
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stretch => "stretch",
            Self::Crop => "crop",
            Self::Pad => "pad",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(fit: Fit, axis: usize, other: usize) -> (isize, usize) {
        let window = fit.window(axis, other);
        (window.start, window.len)
    }

    #[test]
    fn windows_are_centered() {
        assert_eq!(window(Fit::Stretch, 600, 300), (0, 600));
        assert_eq!(window(Fit::Crop, 600, 300), (150, 300));
        assert_eq!(window(Fit::Crop, 300, 600), (0, 300));
        assert_eq!(window(Fit::Pad, 600, 300), (0, 600));
        assert_eq!(window(Fit::Pad, 300, 600), (-150, 600));
        assert_eq!(window(Fit::Crop, 8, 5), (1, 5));
    }

    #[test]
    fn squares_are_unchanged() {
        for fit in [Fit::Stretch, Fit::Crop, Fit::Pad] {
            assert_eq!(window(fit, 7, 7), (0, 7));
        }
    }

    #[test]
    fn text_forms_are_those_of_recipes() {
        for fit in [Fit::Stretch, Fit::Crop, Fit::Pad] {
            let json = serde_json::to_string(&fit).unwrap();
            assert_eq!(json, format!("\"{fit}\""));
            assert_eq!(serde_json::from_str::<Fit>(&json).unwrap(), fit);
        }
        assert!(serde_json::from_str::<Fit>("\"squash\"").is_err());
    }
}
