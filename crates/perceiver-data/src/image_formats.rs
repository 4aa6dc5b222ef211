//! Supported image formats and their file extensions.

/// The supported formats, as listed in messages.
pub const READABLE_FORMATS: &str = "PNG, JPEG, WebP, BMP, GIF or TIFF";

/// File extensions of images, matched case-insensitively.
const EXTENSIONS: [&str; 12] = [
    "png", "jpg", "jpeg", "jpe", "jif", "jfif", "webp", "bmp", "dib", "gif", "tif", "tiff",
];

/// Whether a file extension, without its dot, is that of an image.
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
