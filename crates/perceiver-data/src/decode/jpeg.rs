//! JPEG decoding: chooses between two decoders.
//!
//! zune-jpeg, used by the `image` crate, is the faster one. It misreads images whose components
//! come in separate scans (baseline), or have sampling factors that cameras do not use;
//! jpeg-decoder reads these. Both were compared with libjpeg over sampling factors, scans, restart
//! intervals and sizes: `tests/oracle/jpeg_grid.py`.

pub(crate) mod markers;

use image::ColorType;
use image::metadata::Orientation;
use jpeg_decoder::{ImageInfo, PixelFormat};

use crate::decode::jpeg::markers::{Component, Frame};

/// A JPEG decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JpegReader {
    /// zune-jpeg, through the `image` crate.
    Library,
    /// jpeg-decoder.
    Separate,
    /// No decoder: both would misread the image.
    Nobody,
}

impl JpegReader {
    /// Selects the decoder for files with this frame.
    pub(crate) fn of(frame: &Frame) -> Self {
        if frame.precision != 8 {
            return Self::Library; // returns an error
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
        // jpeg-decoder miscounts the blocks of a component in a scan of its own if its sampling
        // factor is above 1 and below the maximum.
        let all_or_one = |samples: u8, most: u8| samples == 1 || samples == most;
        let counted_rightly = frame.components.iter().all(|component| {
            all_or_one(component.horizontal, most_across)
                && all_or_one(component.vertical, most_down)
        });
        let scanned_together = !frame.progressive && frame.in_first_scan == frame.components.len();
        // It panics at two components, which have no colour space.
        let colour_is_known = matches!(frame.components.len(), 1 | 3 | 4);
        if colour_is_known && (counted_rightly || scanned_together) {
            Self::Separate
        } else {
            Self::Nobody
        }
    }
}

/// A JPEG opened with jpeg-decoder, its header read.
pub(crate) struct SeparateJpeg<'a> {
    decoder: jpeg_decoder::Decoder<&'a [u8]>,
    info: ImageInfo,
}

impl<'a> SeparateJpeg<'a> {
    /// Reads the header.
    ///
    /// # Errors
    /// A description of what is wrong with the file.
    pub(crate) fn open(bytes: &'a [u8]) -> Result<Self, String> {
        let mut decoder = jpeg_decoder::Decoder::new(bytes);
        decoder.read_info().map_err(|error| error.to_string())?;
        let info = decoder.info().ok_or("no frame")?;
        if info.pixel_format == PixelFormat::L16 {
            return Err("samples of more than 8 bits".to_string());
        }
        Ok(Self { decoder, info })
    }

    /// Returns the width in pixels.
    pub(crate) fn width(&self) -> u16 {
        self.info.width
    }

    /// Returns the height in pixels.
    pub(crate) fn height(&self) -> u16 {
        self.info.height
    }

    /// Returns the type of the decoded pixels.
    pub(crate) fn colour(&self) -> ColorType {
        match self.info.pixel_format {
            PixelFormat::RGB24 | PixelFormat::CMYK32 => ColorType::Rgb8,
            _ => ColorType::L8,
        }
    }

    /// Returns the EXIF orientation.
    pub(crate) fn orientation(&self) -> Orientation {
        let exif = self.decoder.exif_data();
        let orientation = exif.and_then(Orientation::from_exif_chunk);
        orientation.unwrap_or(Orientation::NoTransforms)
    }

    /// Decodes the pixels, interleaved.
    ///
    /// # Errors
    /// A description of what is wrong with the file.
    pub(crate) fn read(mut self) -> Result<Vec<u8>, String> {
        let mut pixels = self.decoder.decode().map_err(|error| error.to_string())?;
        if self.info.pixel_format == PixelFormat::CMYK32 {
            inks_to_rgb(&mut pixels);
        }
        Ok(pixels)
    }
}

/// Converts CMYK to RGB in place: the light that each ink and then black let through.
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
