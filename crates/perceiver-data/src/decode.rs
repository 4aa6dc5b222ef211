//! Pictures from and to files: PNG, JPEG, WebP and BMP become 8-bit RGB as people see them.
//!
//! The format is read off the content, never the file name. EXIF orientation is applied, transparency is laid over
//! white, grey, palette and 16-bit pictures become 8-bit RGB. A picture whose pixels would take more than
//! [`MAX_DECODED_BYTES`] is refused before they are decoded.
//!
//! ```
//! use std::path::Path;
//! use perceiver_data::Image;
//!
//! let picture = Image::from_interleaved(1, 2, &[255, 0, 0, 0, 0, 255])?; // a red pixel and a blue one
//! let dir = tempfile::tempdir().unwrap();
//! picture.write_png(&dir.path().join("two.png"))?;
//! assert_eq!(Image::open(&dir.path().join("two.png"))?, picture);
//!
//! let error = Image::decode(b"<html>", Path::new("cat.png")).unwrap_err();
//! assert!(error.to_string().starts_with("cat.png is not a readable picture"));
//! # Ok::<(), perceiver_data::DataError>(())
//! ```

use std::fs;
use std::io::{self, Cursor};
use std::path::Path;

use image::ImageReader;
use image::codecs::png::PngEncoder;
use image::metadata::Orientation;
use image::{DynamicImage, ExtendedColorType, ImageDecoder, ImageEncoder, ImageError, ImageFormat};
use image::{Limits, RgbImage};
use perceiver_files::read_regular;

use crate::error::{DataError, Result};
use crate::image::Image;
use crate::truncation::is_cut_short;

/// The most memory that the pixels of one picture may take, 512 MiB: 179 million pixels of 8-bit RGB, beyond any
/// camera's, and far below what a few bytes of hostile header can ask for.
pub const MAX_DECODED_BYTES: u64 = 512 << 20;

/// The most bytes of an encoded picture, 512 MiB: as many as its pixels may take, which no format exceeds by much.
pub const MAX_ENCODED_BYTES: u64 = 512 << 20;

impl Image {
    /// Reads and decodes the PNG, JPEG, WebP or BMP file at `path`.
    ///
    /// # Errors
    /// [`DataError::Io`] when the file cannot be read, is no regular file or has more than [`MAX_ENCODED_BYTES`], else as [`Image::decode`].
    pub fn open(path: &Path) -> Result<Self> {
        tracing::trace!("reading {}", path.display());
        let bytes = read_regular(path, MAX_ENCODED_BYTES).map_err(|source| DataError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        Self::decode(&bytes, path)
    }

    /// Decodes a PNG, JPEG, WebP or BMP file held in memory; `origin` names it in errors.
    ///
    /// # Errors
    /// [`DataError::NotAnImage`] when the bytes are none of these, damaged or cut short, and
    /// [`DataError::TooManyPixels`] when decoding would take more than [`MAX_DECODED_BYTES`].
    pub fn decode(bytes: &[u8], origin: &Path) -> Result<Self> {
        let refuse = |finding: String| DataError::NotAnImage {
            path: origin.to_owned(),
            finding,
        };
        let format = image::guess_format(bytes)
            .ok()
            .filter(ImageFormat::reading_enabled)
            .ok_or_else(|| refuse(first_bytes(bytes)))?;
        if is_cut_short(format, bytes) {
            return Err(refuse(format!("a {format:?} file cut short")));
        }

        let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
        let mut limits = Limits::default();
        limits.max_alloc = Some(MAX_DECODED_BYTES);
        reader.limits(limits);
        let damaged = |error: ImageError| refuse(format!("a damaged file ({error})"));
        let mut decoder = reader.into_decoder().map_err(damaged)?;
        let (width, height) = decoder.dimensions();
        if width == 0 || height == 0 {
            return Err(refuse(format!("a picture of {width} x {height} pixels")));
        }
        if decoder.total_bytes() > MAX_DECODED_BYTES {
            return Err(DataError::TooManyPixels {
                path: origin.to_owned(),
                height,
                width,
                limit: MAX_DECODED_BYTES,
            });
        }

        // Unreadable metadata is no reason to refuse readable pixels.
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let mut picture = DynamicImage::from_decoder(decoder).map_err(damaged)?;
        picture.apply_orientation(orientation);
        from_rgb(&over_white(picture))
    }

    /// Writes the picture as an 8-bit RGB PNG file.
    pub fn write_png(&self, path: &Path) -> Result<()> {
        let written = self.to_png().and_then(|bytes| fs::write(path, bytes));
        written.map_err(|source| DataError::Io {
            action: "write",
            path: path.to_owned(),
            source,
        })
    }

    /// The picture as the bytes of an 8-bit RGB PNG file.
    ///
    /// # Errors
    /// When it is too large for one.
    pub fn to_png(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let written = PngEncoder::new(&mut bytes).write_image(
            &self.to_interleaved(),
            self.width() as u32,
            self.height() as u32,
            ExtendedColorType::Rgb8,
        );
        written.map_err(io::Error::other)?;
        Ok(bytes)
    }
}

pub(crate) fn from_rgb(picture: &RgbImage) -> Result<Image> {
    Image::from_interleaved(
        picture.height() as usize,
        picture.width() as usize,
        picture.as_raw(),
    )
}

/// 8-bit RGB, with what is transparent mixed with white in the stored (gamma-encoded) values, as browsers do.
fn over_white(picture: DynamicImage) -> RgbImage {
    if !picture.color().has_alpha() {
        return picture.into_rgb8();
    }
    let picture = picture.into_rgba8();
    let mut opaque = RgbImage::new(picture.width(), picture.height());
    for (target, source) in opaque.pixels_mut().zip(picture.pixels()) {
        let [red, green, blue, alpha] = source.0.map(u32::from);
        let mix = |value: u32| ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
        target.0 = [mix(red), mix(green), mix(blue)];
    }
    opaque
}

/// What a file that is no picture begins with, for people.
fn first_bytes(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "an empty file".into();
    }
    let start = &bytes[..bytes.len().min(12)];
    format!("bytes that begin with \"{}\"", start.escape_ascii())
}

#[cfg(test)]
mod tests;
