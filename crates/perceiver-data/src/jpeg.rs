//! Which of two decoders reads a JPEG.
//!
//! zune-jpeg, the image library's own, is the faster one. It gets images wrong whose components come in scans of their own
//! (baseline), or are sampled in proportions that cameras do not use; jpeg-decoder reads these. Both were compared with libjpeg
//! over samplings, scans, restart intervals and sizes: `tests/oracle/jpeg_grid.py`.

use image::ColorType;
use image::metadata::Orientation;
use jpeg_decoder::{ImageInfo, PixelFormat};

use crate::jpeg_markers::{Component, Frame};

/// Who decodes a JPEG.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JpegReader {
    /// zune-jpeg, through the image library.
    Library,
    /// jpeg-decoder.
    Separate,
    /// Nobody: the decoders at hand would get it wrong.
    Nobody,
}

impl JpegReader {
    /// Who decodes files with this frame.
    pub(crate) fn of(frame: &Frame) -> Self {
        if frame.precision != 8 {
            return Self::Library; // which refuses it
        }
        let (most_across, most_down) = frame.most_samples();
        let first = frame.components[0];
        let luma_is_finest = (first.horizontal, first.vertical) == (most_across, most_down);
        let halved = |component: &Component| {
            matches!(component.horizontal, 1 | 2 | 4) && matches!(component.vertical, 1 | 2 | 4)
        };
        let in_one_scan = frame.progressive || frame.in_first_scan == frame.components.len();
        if in_one_scan && luma_is_finest && frame.components.iter().all(halved) {
            return Self::Library;
        }
        // jpeg-decoder counts the blocks of a component that is scanned alone wrongly where it has more than one a unit and fewer
        // than the finest.
        let all_or_one = |samples: u8, most: u8| samples == 1 || samples == most;
        let counted_rightly = frame.components.iter().all(|component| {
            all_or_one(component.horizontal, most_across)
                && all_or_one(component.vertical, most_down)
        });
        let scanned_together = !frame.progressive && frame.in_first_scan == frame.components.len();
        // It panics at two components, of which no colour is made.
        let colour_is_known = matches!(frame.components.len(), 1 | 3 | 4);
        if colour_is_known && (counted_rightly || scanned_together) {
            Self::Separate
        } else {
            Self::Nobody
        }
    }
}

/// A JPEG that jpeg-decoder reads, its header read.
pub(crate) struct SeparateJpeg<'a> {
    decoder: jpeg_decoder::Decoder<&'a [u8]>,
    info: ImageInfo,
}

impl<'a> SeparateJpeg<'a> {
    /// Reads the header.
    ///
    /// # Errors
    /// What is wrong with the file, in words.
    pub(crate) fn open(bytes: &'a [u8]) -> Result<Self, String> {
        let mut decoder = jpeg_decoder::Decoder::new(bytes);
        decoder.read_info().map_err(|error| error.to_string())?;
        let info = decoder.info().ok_or("no frame")?;
        if info.pixel_format == PixelFormat::L16 {
            return Err("samples of more than 8 bits".to_string());
        }
        Ok(Self { decoder, info })
    }

    /// Width in pixels.
    pub(crate) fn width(&self) -> u16 {
        self.info.width
    }

    /// Height in pixels.
    pub(crate) fn height(&self) -> u16 {
        self.info.height
    }

    /// The kind of pixels that are read.
    pub(crate) fn colour(&self) -> ColorType {
        match self.info.pixel_format {
            PixelFormat::RGB24 | PixelFormat::CMYK32 => ColorType::Rgb8,
            _ => ColorType::L8,
        }
    }

    /// The orientation in the metadata.
    pub(crate) fn orientation(&self) -> Orientation {
        let exif = self.decoder.exif_data();
        let orientation = exif.and_then(Orientation::from_exif_chunk);
        orientation.unwrap_or(Orientation::NoTransforms)
    }

    /// The pixels, one after another.
    ///
    /// # Errors
    /// What is wrong with the file, in words.
    pub(crate) fn read(mut self) -> Result<Vec<u8>, String> {
        let mut pixels = self.decoder.decode().map_err(|error| error.to_string())?;
        if self.info.pixel_format == PixelFormat::CMYK32 {
            inks_to_rgb(&mut pixels);
        }
        Ok(pixels)
    }
}

/// Cyan, magenta, yellow and black become red, green and blue, in place: light that each ink and then the black let through.
fn inks_to_rgb(pixels: &mut Vec<u8>) {
    let count = pixels.len() / 4;
    for at in 0..count {
        let through = 255 - u32::from(pixels[4 * at + 3]);
        for channel in 0..3 {
            let light = 255 - u32::from(pixels[4 * at + channel]);
            pixels[3 * at + channel] = ((light * through + 127) / 255) as u8;
        }
    }
    pixels.truncate(3 * count);
}

#[cfg(test)]
mod tests;
