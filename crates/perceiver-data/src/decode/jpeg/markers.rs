//! JPEG header segments: the frame and its first scan.

use std::iter;

/// The marker of a start-of-scan segment.
pub(crate) const START_OF_SCAN: u8 = 0xda;

/// Start-of-frame markers: baseline, extended sequential, progressive. Other coding processes are
/// very rare.
const START_OF_FRAME: [u8; 3] = [0xc0, 0xc1, PROGRESSIVE];
const PROGRESSIVE: u8 = 0xc2;

/// A segment of the header.
pub(crate) struct Segment<'a> {
    /// Its marker.
    pub(crate) marker: u8,
    /// Its content, without marker and length.
    pub(crate) content: &'a [u8],
    /// The rest of the file after it.
    pub(crate) after: &'a [u8],
}

/// Iterates over the segments of a JPEG up to and including the start of its first scan.
pub(crate) fn segments(bytes: &[u8]) -> impl Iterator<Item = Segment<'_>> {
    let mut rest = bytes.get(2..).unwrap_or_default();
    iter::from_fn(move || {
        // Fill bytes and stray bytes: decoders skip both.
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
    /// Horizontal sampling factor, relative to the other components.
    pub(crate) horizontal: u8,
    /// Vertical sampling factor.
    pub(crate) vertical: u8,
}

/// The frame header of a JPEG.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Whether the coding is progressive.
    pub(crate) progressive: bool,
    /// Bits per sample.
    pub(crate) precision: u8,
    /// Height in pixels.
    pub(crate) height: u16,
    /// Width in pixels.
    pub(crate) width: u16,
    /// The components, at least one, with sampling factors of at least 1.
    pub(crate) components: Vec<Component>,
    /// The number of components in the first scan.
    pub(crate) in_first_scan: usize,
}

impl Frame {
    /// Reads the frame of a Huffman-coded JPEG (baseline, extended or progressive); `None` for any
    /// other file.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        let mut header = None;
        for segment in segments(bytes) {
            if START_OF_FRAME.contains(&segment.marker) {
                header = Some(Self::read(&segment)?);
            } else if segment.marker == START_OF_SCAN {
                let mut frame = header?;
                frame.in_first_scan = usize::from(*segment.content.first()?);
                return Some(frame);
            }
        }
        None
    }

    /// Returns the number of 8 x 8 blocks of all components. Huffman coding spends at least one bit
    /// on each, for its DC coefficient.
    pub(crate) fn blocks(&self) -> u64 {
        let most = |factor: fn(&Component) -> u8| self.components.iter().map(factor).max();
        let (across, down) = (most(|c| c.horizontal), most(|c| c.vertical));
        let blocks = |pixels: u16, factor: u8, most: Option<u8>| {
            let samples = u64::from(pixels) * u64::from(factor);
            samples.div_ceil(8 * u64::from(most.unwrap_or(1)))
        };
        let of_component = |component: &Component| {
            blocks(self.width, component.horizontal, across)
                * blocks(self.height, component.vertical, down)
        };
        self.components.iter().map(of_component).sum()
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

    /// Returns the largest horizontal and vertical sampling factor.
    pub(crate) fn most_samples(&self) -> (u8, u8) {
        let most = |of: fn(&Component) -> u8| self.components.iter().map(of).max().unwrap_or(1);
        (most(|c| c.horizontal), most(|c| c.vertical))
    }

    /// Returns the number of samples of all components, including the padding of border blocks.
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
    fn the_frame_header_is_read_with_its_first_scan() {
        let frame = Frame::of(HEADER).unwrap();
        assert_eq!((frame.height, frame.width), (9, 17));
        assert_eq!((frame.components.len(), frame.in_first_scan), (3, 3));
        assert_eq!(frame.most_samples(), (2, 2));
        // Two units of 16 x 16 pixels: four luma blocks and one of each chroma.
        assert_eq!(frame.samples(), 2 * 6 * 64);
        assert!(!frame.progressive);
    }

    #[test]
    fn a_truncated_header_has_no_frame() {
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
