//! The header of a JPEG file: its segments, and what they say about the frame and its first scan.

use std::iter;

/// The marker of a segment that starts a scan.
pub(crate) const START_OF_SCAN: u8 = 0xda;

/// Start of frame: baseline, extended sequential, progressive. All others are of coding processes that are hardly ever met.
const START_OF_FRAME: [u8; 3] = [0xc0, 0xc1, PROGRESSIVE];
const PROGRESSIVE: u8 = 0xc2;

/// A segment of the header.
pub(crate) struct Segment<'a> {
    /// What kind it is.
    pub(crate) marker: u8,
    /// Its content, without marker and length.
    pub(crate) content: &'a [u8],
    /// All that follows it in the file.
    pub(crate) after: &'a [u8],
}

/// The segments of a JPEG from its beginning to the start of its first scan, which is the last of them where the file has one.
pub(crate) fn segments(bytes: &[u8]) -> impl Iterator<Item = Segment<'_>> {
    let mut rest = bytes.get(2..).unwrap_or_default();
    iter::from_fn(move || {
        // Fill bytes, and what does not belong there: decoders pass over both.
        let is_marker = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff);
        let [_, marker, length @ ..] = &rest[rest.windows(2).position(is_marker)?..] else {
            return None;
        };
        let [high, low, ..] = length else {
            return None;
        };
        let end = usize::from(u16::from_be_bytes([*high, *low]));
        let after = length.get(end..).unwrap_or_default();
        let content = length.get(2..end).unwrap_or_default();
        rest = if *marker == START_OF_SCAN { &[] } else { after };
        Some(Segment {
            marker: *marker,
            content,
            after,
        })
    })
}

/// A colour component of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Component {
    /// Samples in a row, relative to those of the other components.
    pub(crate) horizontal: u8,
    /// Samples in a column, likewise.
    pub(crate) vertical: u8,
}

/// What the header says of the image and how it is coded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Whether detail comes in several passes.
    pub(crate) progressive: bool,
    /// Bits a sample.
    pub(crate) precision: u8,
    /// Height in pixels.
    pub(crate) height: u16,
    /// Width in pixels.
    pub(crate) width: u16,
    /// The components, at least one, each sampled at least once.
    pub(crate) components: Vec<Component>,
    /// How many of them the first scan has.
    pub(crate) in_first_scan: usize,
}

impl Frame {
    /// The frame of a JPEG coded by Huffman's method, baseline, extended or progressive; `None` for any other file.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        let mut found = None;
        for segment in segments(bytes) {
            if START_OF_FRAME.contains(&segment.marker) {
                found = Some(Self::read(&segment)?);
            } else if segment.marker == START_OF_SCAN {
                let mut frame = found?;
                frame.in_first_scan = usize::from(*segment.content.first()?);
                return Some(frame);
            }
        }
        None
    }

    fn read(segment: &Segment) -> Option<Self> {
        let [precision, h1, h0, w1, w0, count, components @ ..] = segment.content else {
            return None;
        };
        let components: Vec<Component> = components
            .chunks_exact(3)
            .take(usize::from(*count))
            .map(|component| Component {
                horizontal: component[1] >> 4,
                vertical: component[1] & 15,
            })
            .collect();
        let sampled = |component: &Component| component.horizontal > 0 && component.vertical > 0;
        let complete = components.len() == usize::from(*count) && !components.is_empty();
        (complete && components.iter().all(sampled)).then_some(Self {
            progressive: segment.marker == PROGRESSIVE,
            precision: *precision,
            height: u16::from_be_bytes([*h1, *h0]),
            width: u16::from_be_bytes([*w1, *w0]),
            components,
            in_first_scan: 0,
        })
    }

    /// The most samples in a row and in a column that a component has.
    pub(crate) fn most_samples(&self) -> (u8, u8) {
        let most = |of: fn(&Component) -> u8| self.components.iter().map(of).max().unwrap_or(1);
        (most(|c| c.horizontal), most(|c| c.vertical))
    }

    /// The number of samples of all components, with those that fill the blocks at the borders.
    pub(crate) fn samples(&self) -> u64 {
        let (horizontal, vertical) = self.most_samples();
        let units = |pixels: u16, most: u8| u64::from(pixels).div_ceil(8 * u64::from(most));
        let units = units(self.width, horizontal) * units(self.height, vertical);
        let blocks = |c: &Component| u64::from(c.horizontal) * u64::from(c.vertical);
        64 * units * self.components.iter().map(blocks).sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &[u8] = b"\xff\xd8\xff\xff\xe0\0\x04ab\
        \xff\xc0\0\x11\x08\0\x09\0\x11\x03\x01\x22\0\x02\x11\0\x03\x11\0\
        \xff\xda\0\x0c\x03\x01\0\x02\0\x03\0\0\x3f\0data";

    #[test]
    fn the_frame_is_read_with_its_first_scan() {
        let frame = Frame::of(HEADER).unwrap();
        assert_eq!((frame.height, frame.width), (9, 17));
        assert_eq!((frame.components.len(), frame.in_first_scan), (3, 3));
        assert_eq!(frame.most_samples(), (2, 2));
        // Two units of 16 x 16 pixels: four blocks of luma and one of either chroma.
        assert_eq!(frame.samples(), 2 * 6 * 64);
        assert!(!frame.progressive);
    }

    #[test]
    fn a_header_that_breaks_off_has_no_frame() {
        for length in 0..HEADER.len() - 14 {
            assert_eq!(Frame::of(&HEADER[..length]), None, "{length}");
        }
    }

    #[test]
    fn the_first_scan_is_the_last_segment() {
        let last = segments(HEADER).last().unwrap();
        assert_eq!((last.marker, last.after), (START_OF_SCAN, &b"data"[..]));
    }
}
