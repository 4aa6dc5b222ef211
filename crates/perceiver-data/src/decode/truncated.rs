//! Detects truncated image files that decoders accept.

use image::ImageFormat;

use crate::decode::jpeg::markers::{Frame, START_OF_SCAN, segments};

/// Whether a file of this format is truncated in a way that its decoder would not report, or would
/// report too late.
pub(crate) fn is_cut_short(format: ImageFormat, bytes: &[u8]) -> bool {
    match format {
        ImageFormat::Jpeg => !jpeg_is_whole(bytes),
        ImageFormat::WebP => !webp_is_whole(bytes),
        _ => false, // reported by the PNG decoder
    }
}

/// Whether a JPEG's data runs to its end-of-image marker. The decoder silently fills missing data
/// with grey, so that half a download would pass as an image.
///
/// Header segments are skipped, since a thumbnail in one of them has its own end marker; in the
/// coded data after them no other `FF` is followed by `D9`. An end marker alone is not enough: a few
/// hundred bytes can claim sixty million pixels, so every block needs its bit of data.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    const END_OF_IMAGE: [u8; 2] = [0xff, 0xd9];
    let Some(scan) = segments(bytes).find(|segment| segment.marker == START_OF_SCAN) else {
        return false;
    };
    let blocks = Frame::of(bytes).map_or(0, |frame| frame.blocks());
    let bits = 8 * scan.after.len() as u64;
    bits >= blocks && scan.after.windows(2).any(|pair| pair == END_OF_IMAGE)
}

/// Whether every chunk of a WebP lies within the file. The decoder allocates memory for metadata by
/// the length that a chunk claims, up to 4 GiB.
fn webp_is_whole(bytes: &[u8]) -> bool {
    let end = match bytes {
        [_, _, _, _, a, b, c, d, ..] => {
            8_usize.saturating_add(u32::from_le_bytes([*a, *b, *c, *d]) as usize)
        }
        _ => return false,
    };
    let mut chunks = bytes.get(12..end);
    while let Some([_, _, _, _, a, b, c, d, rest @ ..]) = chunks {
        let length = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
        if length > rest.len() {
            return false;
        }
        let padded = length.next_multiple_of(2).min(rest.len());
        chunks = rest.get(padded..);
    }
    chunks.is_some()
}
