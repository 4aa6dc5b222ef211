//! Picture files that end too soon, where the decoders do not say so.

use image::ImageFormat;

use crate::jpeg_markers::{START_OF_SCAN, segments};

/// Whether a file of this format has an end missing that its decoder would not miss, or miss too late.
pub(crate) fn is_cut_short(format: ImageFormat, bytes: &[u8]) -> bool {
    match format {
        ImageFormat::Jpeg => !jpeg_is_whole(bytes),
        ImageFormat::WebP => !webp_is_whole(bytes),
        _ => false, // the PNG decoder reports it
    }
}

/// Whether a JPEG's data runs to its end-of-image marker. The decoder fills what is missing with grey and reports
/// nothing, so that half a download would pass for a picture.
///
/// Header segments are stepped over, since a thumbnail in one of them has an end marker of its own; in the coded
/// data after them no other `FF` is followed by `D9`.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    const END_OF_IMAGE: [u8; 2] = [0xff, 0xd9];
    let Some(scan) = segments(bytes).find(|segment| segment.marker == START_OF_SCAN) else {
        return false;
    };
    scan.after.windows(2).any(|pair| pair == END_OF_IMAGE)
}

/// Whether every chunk of a WebP lies within the file. The decoder sets memory aside for metadata by the length
/// that a chunk claims, up to 4 GiB.
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
