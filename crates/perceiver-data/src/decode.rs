//! Image decoding and encoding: PNG, JPEG, WebP, BMP, GIF and TIFF to 8-bit RGB.
//!
//! The format is detected from the content, never from the file name. EXIF orientation is applied,
//! transparency is composited over white, and grey, palette and 16-bit images become 8-bit RGB. The
//! memory this takes is computed before any pixel is decoded: an image that needs more than
//! [`MAX_DECODED_BYTES`] is an error, and threads wait for each other to stay below that limit
//! together.
//!
//! ```
//! use perceiver_data::Image;
//!
//! let image = Image::from_interleaved(1, 2, &[255, 0, 0, 0, 0, 255])?; // a red pixel and a blue one
//! let dir = tempfile::tempdir().unwrap();
//! image.write_png(dir.path().join("two.png"))?;
//! assert_eq!(Image::open(dir.path().join("two.png"))?, image);
//!
//! let error = Image::decode(b"<html>", "cat.png").unwrap_err();
//! assert!(error.to_string().starts_with("cat.png is not a readable image"));
//! # Ok::<(), perceiver_data::DataError>(())
//! ```

pub(crate) mod budget;
pub(crate) mod downscale;
pub(crate) mod jpeg;
mod png_palette;
pub(crate) mod source;
pub(crate) mod to_rgb;
pub(crate) mod truncated;

use std::fs;
use std::io;
use std::path::Path;

use image::codecs::png::PngEncoder;
use image::metadata::Orientation;
use image::{DynamicImage, ExtendedColorType, ImageEncoder, ImageFormat, RgbImage};
use perceiver_files::read_regular;

use crate::contain_panics::contained;
use crate::dataset::image::Image;
use crate::decode::budget::DecodeBudget;
use crate::decode::downscale::{shrinking_bytes, shrunk};
use crate::decode::png_palette::invalid_palette;
use crate::decode::source::ImageSource;
use crate::decode::truncated::is_cut_short;
use crate::error::{DataError, Result};

/// The memory limit of image decoding and conversion, shared by all threads: 512 MiB. That is a
/// 178-megapixel photo in 8-bit RGB, and far below what a few bytes of hostile header can claim.
pub const MAX_DECODED_BYTES: u64 = 512 << 20;

/// The largest size of an encoded image, 512 MiB: the limit of its pixels, which no format exceeds
/// by much.
pub const MAX_ENCODED_BYTES: u64 = 512 << 20;

/// The decoding budget shared by all threads.
static BUDGET: DecodeBudget = DecodeBudget::new(MAX_DECODED_BYTES);

impl Image {
    /// Reads and decodes the PNG, JPEG, WebP, BMP, GIF or TIFF file at `path`.
    ///
    /// # Errors
    /// [`DataError::Io`] when the file cannot be read, is not a regular file or has more than
    /// [`MAX_ENCODED_BYTES`]; otherwise as [`Image::decode`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::decode(&read(path)?, path)
    }

    /// Decodes a PNG, JPEG, WebP, BMP, GIF or TIFF file in memory; `origin` names it in errors.
    /// Returns the first frame of an animation and the first page of a multi-page file.
    ///
    /// Blocks while other threads decode images that leave no room for this one.
    ///
    /// # Errors
    /// [`DataError::NotAnImage`] when the bytes are in another format, damaged or truncated, and
    /// [`DataError::TooManyPixels`] when decoding would take more than [`MAX_DECODED_BYTES`].
    pub fn decode(bytes: &[u8], origin: impl AsRef<Path>) -> Result<Self> {
        decode_within(&BUDGET, bytes, origin.as_ref(), None)
    }

    /// Combines [`Image::open`] and [`Image::shrunk_to`], with less memory.
    ///
    /// # Errors
    /// As for [`Image::open`].
    pub fn open_shrunk(path: impl AsRef<Path>, shorter_side: usize) -> Result<Self> {
        let path = path.as_ref();
        Self::decode_shrunk(&read(path)?, path, shorter_side)
    }

    /// Combines [`Image::decode`] and [`Image::shrunk_to`], with less memory, so that larger images
    /// can be read.
    ///
    /// # Errors
    /// As for [`Image::decode`].
    pub fn decode_shrunk(
        bytes: &[u8],
        origin: impl AsRef<Path>,
        shorter_side: usize,
    ) -> Result<Self> {
        decode_within(&BUDGET, bytes, origin.as_ref(), Some(shorter_side))
    }

    /// Reads height and width in pixels from the header of an image file in memory, with EXIF
    /// orientation applied, and decodes no pixel; `origin` names it in errors.
    ///
    /// ```
    /// use perceiver_data::Image;
    ///
    /// let png = Image::new(2, 3, vec![0; 18])?.to_png().unwrap();
    /// assert_eq!(Image::size_of(&png, "two by three.png")?, (2, 3));
    /// # Ok::<(), perceiver_data::DataError>(())
    /// ```
    ///
    /// # Errors
    /// [`DataError::NotAnImage`] when the bytes are in another format, or damaged or truncated as far
    /// as that shows without decoding.
    pub fn size_of(bytes: &[u8], origin: impl AsRef<Path>) -> Result<(usize, usize)> {
        let source = opened(BUDGET.limit(), bytes, origin.as_ref())?;
        let (height, width) = source.oriented_size();
        Ok((height as usize, width as usize))
    }

    /// Converts an image of the `image` crate to 8-bit RGB; transparency is composited over white, as
    /// in [`Image::decode`].
    ///
    /// ```
    /// use image::{DynamicImage, RgbaImage};
    /// use perceiver_data::Image;
    ///
    /// let transparent = DynamicImage::from(RgbaImage::new(2, 1));
    /// assert_eq!(Image::from_dynamic(transparent)?.pixels(), [255; 6]);
    /// # Ok::<(), perceiver_data::DataError>(())
    /// ```
    ///
    /// # Errors
    /// When the image has no pixels.
    pub fn from_dynamic(image: DynamicImage) -> Result<Self> {
        let (height, width) = (image.height() as usize, image.width() as usize);
        let colour = image.color();
        if !to_rgb::is_known(colour) {
            return from_rgb(&image.to_rgb8());
        }
        let mut pixels = image.into_bytes();
        pixels.resize(
            to_rgb::buffer_len((height * width) as u64, colour) as usize,
            0,
        );
        to_rgb::to_rgb8(&mut pixels, height * width, colour);
        Self::from_interleaved(height, width, &pixels)
    }

    /// Writes the image as an 8-bit RGB PNG file.
    pub fn write_png(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let written = self.to_png().and_then(|bytes| fs::write(path, bytes));
        written.map_err(|source| DataError::Io {
            action: "write",
            path: path.to_owned(),
            source,
        })
    }

    /// Encodes the image as an 8-bit RGB PNG file in memory.
    ///
    /// # Errors
    /// When it is too large for PNG.
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

pub(crate) fn from_rgb(image: &RgbImage) -> Result<Image> {
    Image::from_interleaved(
        image.height() as usize,
        image.width() as usize,
        image.as_raw(),
    )
}

fn read(path: &Path) -> Result<Vec<u8>> {
    tracing::trace!("reading {}", path.display());
    read_regular(path, MAX_ENCODED_BYTES).map_err(|source| DataError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })
}

/// Reads the header of an image file, for whose decoding at most `limit` bytes may be allocated.
fn opened<'a>(limit: u64, bytes: &'a [u8], origin: &Path) -> Result<ImageSource<'a>> {
    let not_an_image = |finding: String| DataError::NotAnImage {
        path: origin.to_owned(),
        finding,
    };
    let format = image::guess_format(bytes)
        .ok()
        .filter(ImageFormat::reading_enabled)
        .ok_or_else(|| not_an_image(first_bytes(bytes)))?;
    if is_cut_short(format, bytes) {
        return Err(not_an_image(format!("a truncated {format:?} file")));
    }
    if format == ImageFormat::Png
        && let Some(finding) = invalid_palette(bytes)
    {
        return Err(not_an_image(finding));
    }
    let open = || ImageSource::open(bytes, format, limit);
    let source = contained(open, damaged).map_err(not_an_image)?;
    let (width, height) = (source.width, source.height);
    if width == 0 || height == 0 {
        return Err(not_an_image(format!(
            "an image of {width} x {height} pixels"
        )));
    }
    Ok(source)
}

/// What is found in a file whose decoder panics.
fn damaged() -> String {
    "a file that its decoder fails on".to_owned()
}

/// Decodes, orients and downscales an image while its memory is reserved in `budget`.
fn decode_within(
    budget: &DecodeBudget,
    bytes: &[u8],
    origin: &Path,
    shorter_side: Option<usize>,
) -> Result<Image> {
    let source = opened(budget.limit(), bytes, origin)?;
    let (width, height, orientation) = (source.width, source.height, source.orientation);
    let size = source.oriented_size();
    let orienting_first = memory(&source, shorter_side, true);
    // If orienting the full-size image exceeds the budget, the downscaled image is oriented
    // instead.
    let orients_last = shorter_side.is_some() && orienting_first > budget.limit();
    let needed = memory(&source, shorter_side, !orients_last);
    let reservation = budget.reserve(needed);
    if reservation.is_none() {
        return Err(DataError::TooManyPixels {
            path: origin.to_owned(),
            height,
            width,
            needed,
            limit: budget.limit(),
        });
    }
    let image = contained(|| source.read(), damaged);
    let mut image = image.map_err(|finding| DataError::NotAnImage {
        path: origin.to_owned(),
        finding,
    })?;
    if !orients_last {
        image = oriented(image, orientation);
    }
    if let Some(side) = shorter_side {
        image = shrunk(image, side);
    }
    if orients_last {
        image = oriented(image, orientation);
    }
    Ok(from_rgb(&image)?.shrunk_from((size.0 as usize, size.1 as usize)))
}

/// Returns the peak memory in bytes from encoded bytes to an [`Image`].
fn memory(source: &ImageSource, shorter_side: Option<usize>, orients_full_size: bool) -> u64 {
    let rgb = 3 * source.pixels();
    let orienting = if orients_full_size && source.is_transposed() {
        rgb
    } else {
        0
    };
    let (width, height) = (source.width as usize, source.height as usize);
    let afterwards = match shorter_side {
        Some(side) => {
            shrinking_bytes(width, height, side).max(shrinking_bytes(height, width, side))
        }
        None => rgb,
    };
    let beside = source.working().max(orienting).max(afterwards);
    source.buffer().saturating_add(beside)
}

fn oriented(image: RgbImage, orientation: Orientation) -> RgbImage {
    let mut image = DynamicImage::from(image);
    image.apply_orientation(orientation);
    image.into_rgb8()
}

/// Describes the first bytes of a file that is not an image.
fn first_bytes(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "an empty file".into();
    }
    let start = &bytes[..bytes.len().min(12)];
    format!("bytes that begin with \"{}\"", start.escape_ascii())
}

#[cfg(test)]
mod tests;
