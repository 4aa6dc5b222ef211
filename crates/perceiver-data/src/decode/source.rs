//! An opened image file before decoding: its format, size and memory cost.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{ColorType, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};

use crate::decode::jpeg::markers::Frame;
use crate::decode::jpeg::{JpegReader, SeparateJpeg};
use crate::decode::to_rgb::{buffer_len, drop_empty_alpha, is_known, to_rgb8};

/// An image file whose header is read.
pub(crate) struct ImageSource<'a> {
    /// Width in pixels, before orientation.
    pub(crate) width: u32,
    /// Height in pixels, before orientation.
    pub(crate) height: u32,
    /// The EXIF orientation to apply.
    pub(crate) orientation: Orientation,
    /// An upper bound of the decoder's own memory in bytes, in addition to its output.
    working: u64,
    colour: ColorType,
    format: ImageFormat,
    decoder: Decoder<'a>,
}

enum Decoder<'a> {
    Library(Box<dyn ImageDecoder + 'a>),
    Separate(Box<SeparateJpeg<'a>>),
}

impl<'a> ImageSource<'a> {
    /// Reads the header of a file of this format. The decoder may allocate at most `limit` bytes
    /// for it.
    ///
    /// # Errors
    /// A description of what is wrong with the file.
    pub(crate) fn open(bytes: &'a [u8], format: ImageFormat, limit: u64) -> Result<Self, String> {
        let frame = (format == ImageFormat::Jpeg).then(|| Frame::of(bytes));
        let frame = frame.flatten();
        match frame.as_ref().map_or(JpegReader::Library, JpegReader::of) {
            JpegReader::Library => Self::library(bytes, format, frame.as_ref(), limit),
            JpegReader::Separate => Self::separate(bytes, frame.as_ref()),
            JpegReader::Nobody => {
                let finding = "a JPEG with unsupported sampling factors";
                Err(finding.to_string())
            }
        }
    }

    fn library(
        bytes: &'a [u8],
        format: ImageFormat,
        frame: Option<&Frame>,
        limit: u64,
    ) -> Result<Self, String> {
        let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
        reader.limits(limits(limit));
        let mut decoder: Box<dyn ImageDecoder> =
            Box::new(reader.into_decoder().map_err(|error| damaged(&error))?);
        let (width, height) = decoder.dimensions();
        let pixels = u64::from(width) * u64::from(height);
        let decoded = decoder.total_bytes();
        let working = match format {
            ImageFormat::Jpeg => jpeg_working(bytes, frame),
            ImageFormat::WebP => pixels.saturating_mul(webp_working(bytes)),
            // One frame, which is then copied to its position.
            ImageFormat::Gif => decoded,
            // A second copy of the pixels, with four channels instead of three, and a strip of any
            // height.
            ImageFormat::Tiff => decoded.saturating_mul(2).saturating_add(1 << 20),
            _ => 0, // a few rows
        };
        if matches!(format, ImageFormat::Gif | ImageFormat::Tiff) {
            decoder
                .set_limits(limits(working))
                .map_err(|error| damaged(&error))?;
        }
        let colour = decoder.color_type();
        if !is_known(colour) {
            return Err(format!("an unsupported pixel format ({colour:?})"));
        }
        Ok(Self {
            width,
            height,
            // Unreadable metadata is no reason to reject readable pixels.
            orientation: decoder.orientation().unwrap_or(Orientation::NoTransforms),
            working,
            colour,
            format,
            decoder: Decoder::Library(decoder),
        })
    }

    fn separate(bytes: &'a [u8], frame: Option<&Frame>) -> Result<Self, String> {
        let jpeg = SeparateJpeg::open(bytes).map_err(|error| damaged_file(&error))?;
        let pixels = u64::from(jpeg.width()) * u64::from(jpeg.height());
        // 16-bit coefficients, 8-bit samples, and the fourth ink of CMYK.
        let working = 3 * frame.map_or(0, Frame::samples) + pixels;
        Ok(Self {
            width: jpeg.width().into(),
            height: jpeg.height().into(),
            orientation: jpeg.orientation(),
            working,
            colour: jpeg.colour(),
            format: ImageFormat::Jpeg,
            decoder: Decoder::Separate(Box::new(jpeg)),
        })
    }

    /// Returns the number of pixels.
    pub(crate) fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// Returns the size in bytes of the output buffer of [`ImageSource::read`].
    pub(crate) fn buffer(&self) -> u64 {
        buffer_len(self.pixels(), self.colour)
    }

    /// Returns the bytes that decoding takes in addition to that buffer.
    pub(crate) fn working(&self) -> u64 {
        self.working
    }

    /// Whether the orientation swaps width and height.
    pub(crate) fn is_transposed(&self) -> bool {
        use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
        matches!(
            self.orientation,
            Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH
        )
    }

    /// Returns height and width in pixels, after orientation.
    pub(crate) fn oriented_size(&self) -> (u32, u32) {
        if self.is_transposed() {
            (self.width, self.height)
        } else {
            (self.height, self.width)
        }
    }

    /// Decodes the pixels to 8-bit RGB, before orientation.
    ///
    /// # Errors
    /// A description of what is wrong with the file.
    pub(crate) fn read(self) -> Result<RgbImage, String> {
        let (pixels, buffer) = (self.pixels(), self.buffer());
        let too_large = || "more pixels than fit into memory".to_string();
        let pixels = usize::try_from(pixels).map_err(|_| too_large())?;
        let buffer = usize::try_from(buffer).map_err(|_| too_large())?;
        let mut bytes = match self.decoder {
            Decoder::Library(decoder) => {
                let decoded = decoder.total_bytes() as usize;
                let mut bytes = vec![0; buffer];
                decoder
                    .read_image_boxed(&mut bytes[..decoded])
                    .map_err(|error| damaged(&error))?;
                bytes
            }
            Decoder::Separate(jpeg) => {
                let mut bytes = jpeg.read().map_err(|error| damaged_file(&error))?;
                bytes.resize(buffer, 0);
                bytes
            }
        };
        if self.format == ImageFormat::Bmp && self.colour == ColorType::Rgba8 {
            drop_empty_alpha(&mut bytes); // as viewers do: the last 8 of 32 bits may be unused
        }
        to_rgb8(&mut bytes, pixels, self.colour);
        RgbImage::from_raw(self.width, self.height, bytes)
            .ok_or_else(|| "fewer pixels than the header says".to_string())
    }
}

fn limits(bytes: u64) -> Limits {
    let mut limits = Limits::default();
    limits.max_alloc = Some(bytes);
    limits
}

fn damaged(error: &ImageError) -> String {
    damaged_file(&error.to_string())
}

fn damaged_file(error: &str) -> String {
    format!("a damaged file ({error})")
}

/// Returns zune-jpeg's working memory: a copy of the file, and all 16-bit coefficients of a
/// progressive one.
fn jpeg_working(bytes: &[u8], frame: Option<&Frame>) -> u64 {
    let coefficients = frame
        .filter(|frame| frame.progressive)
        .map_or(0, |frame| 2 * frame.samples());
    bytes.len() as u64 + coefficients
}

/// Returns the largest working memory of image-webp, in bytes per pixel.
fn webp_working(bytes: &[u8]) -> u64 {
    const ALPHA: u8 = 1 << 4;
    const ANIMATED: u8 = 1 << 1;
    match (bytes.get(12..16), bytes.get(20)) {
        (Some(b"VP8 "), _) => 2, // luma and halved chroma, with borders
        (Some(b"VP8X"), Some(flags)) if flags & ANIMATED != 0 => 15, // RGBA frame and canvas
        (Some(b"VP8X"), Some(flags)) if flags & ALPHA != 0 => 7, // alpha plane coded as an image
        _ => 4,                  // an image with alpha
    }
}
