//! The image formats that are read, what their files are called, and what people call them.

/// The formats, as messages name them.
pub const READABLE_FORMATS: &str = "PNG, JPEG, WebP, BMP, GIF or TIFF";

/// What image files are called, in any mixture of upper and lower case.
const EXTENSIONS: [&str; 12] = [
    "png", "jpg", "jpeg", "jpe", "jif", "jfif", "webp", "bmp", "dib", "gif", "tif", "tiff",
];

/// Whether files of images are called so: an extension without its dot.
pub(crate) fn is_image_extension(extension: &str) -> bool {
    EXTENSIONS
        .iter()
        .any(|image| extension.eq_ignore_ascii_case(image))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_count_in_any_case() {
        for extension in ["jfif", "JPE", "Tif", "gif", "png"] {
            assert!(is_image_extension(extension), "{extension}");
        }
        for extension in ["", "txt", "jpg2", ".png"] {
            assert!(!is_image_extension(extension), "{extension}");
        }
    }
}
