//! An image file that is open but not decoded yet: what it will be, what decoding it will take, and its pixels.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{ColorType, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};

use crate::jpeg::{JpegReader, SeparateJpeg};
use crate::jpeg_markers::Frame;
use crate::to_rgb::{buffer_len, drop_empty_alpha, is_known, to_rgb8};

/// An image file whose header was read.
pub(crate) struct ImageSource<'a> {
    /// Width in pixels as they are stored.
    pub(crate) width: u32,
    /// Height in pixels as they are stored.
    pub(crate) height: u32,
    /// How the stored pixels are to be turned.
    pub(crate) orientation: Orientation,
    /// Bytes that the decoder takes for itself, beside the pixels it hands out. More than it may need, never less.
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
    /// Reads the header of a file of this format. No decoder takes more than `limit` bytes for that.
    ///
    /// # Errors
    /// What is wrong with the file, in words.
    pub(crate) fn open(bytes: &'a [u8], format: ImageFormat, limit: u64) -> Result<Self, String> {
        let frame = (format == ImageFormat::Jpeg).then(|| Frame::of(bytes));
        let frame = frame.flatten();
        match frame.as_ref().map_or(JpegReader::Library, JpegReader::of) {
            JpegReader::Library => Self::library(bytes, format, frame.as_ref(), limit),
            JpegReader::Separate => Self::separate(bytes, frame.as_ref()),
            JpegReader::Nobody => {
                let finding =
                    "a JPEG whose components are sampled in proportions that are not read";
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
            // A frame of its own, which is then put where it belongs.
            ImageFormat::Gif => decoded,
            // All pixels once more, four channels where three are handed out, and a strip of any height.
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
            return Err(format!("pixels of a kind that is not read ({colour:?})"));
        }
        Ok(Self {
            width,
            height,
            // Unreadable metadata is no reason to refuse readable pixels.
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
        // Coefficients of 16 bits, samples of 8, and where there are four inks the fourth of them.
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

    /// The number of pixels.
    pub(crate) fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// The bytes that [`ImageSource::read`] hands out, and holds while it decodes.
    pub(crate) fn buffer(&self) -> u64 {
        buffer_len(self.pixels(), self.colour)
    }

    /// The bytes that decoding takes beside those.
    pub(crate) fn working(&self) -> u64 {
        self.working
    }

    /// Whether turning the pixels as they should be makes columns of rows.
    pub(crate) fn is_transposed(&self) -> bool {
        use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
        matches!(
            self.orientation,
            Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH
        )
    }

    /// Decodes the pixels to 8-bit RGB, as they are stored.
    ///
    /// # Errors
    /// What is wrong with the file, in words.
    pub(crate) fn read(self) -> Result<RgbImage, String> {
        let (pixels, buffer) = (self.pixels(), self.buffer());
        let too_large = || "more pixels than there are addresses".to_string();
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
            drop_empty_alpha(&mut bytes); // as all viewers do: programs write 32 bits and leave the last eight empty
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

/// What zune-jpeg takes: the file once more, and of a progressive one all coefficients, of 16 bits.
fn jpeg_working(bytes: &[u8], frame: Option<&Frame>) -> u64 {
    let coefficients = frame
        .filter(|frame| frame.progressive)
        .map_or(0, |frame| 2 * frame.samples());
    bytes.len() as u64 + coefficients
}

/// Bytes a pixel that image-webp takes for itself, at most.
fn webp_working(bytes: &[u8]) -> u64 {
    const ALPHA: u8 = 1 << 4;
    const ANIMATED: u8 = 1 << 1;
    match (bytes.get(12..16), bytes.get(20)) {
        (Some(b"VP8 "), _) => 2, // luma and halved chroma, with borders
        (Some(b"VP8X"), Some(flags)) if flags & ANIMATED != 0 => 15, // a frame with alpha on a canvas
        (Some(b"VP8X"), Some(flags)) if flags & ALPHA != 0 => 7, // and an alpha plane coded as an image
        _ => 4,                                                  // an image with alpha
    }
}
