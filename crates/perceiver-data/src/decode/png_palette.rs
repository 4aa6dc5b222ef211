//! Palettes of PNG files, whose length the decoder does not check.

/// Returns what is wrong with the palette of a PNG, if it has an invalid one: entries are three
/// bytes, and there are at most 256.
pub(crate) fn invalid_palette(bytes: &[u8]) -> Option<String> {
    let mut chunks = bytes.get(8..)?; // after the signature
    while let [a, b, c, d, kind @ ..] = chunks {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        match kind.get(..4)? {
            b"PLTE" => {
                let is_valid = length > 0 && length.is_multiple_of(3) && length <= 3 * 256;
                return (!is_valid).then(|| format!("a PNG with a palette of {length} bytes"));
            }
            b"IDAT" => return None,
            _ => chunks = kind.get(4..)?.get(length..)?.get(4..)?, // a checksum ends it
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(kind: [u8; 4], length: u32) -> Vec<u8> {
        let header = [&[0, 0, 0, 1][..], b"IHDR", &[7], &[0; 4]].concat();
        let start = [&length.to_be_bytes()[..], &kind].concat();
        let content = vec![0; length as usize + 4];
        [&[0; 8][..], &header, &start, &content].concat()
    }

    #[test]
    fn invalid_palettes_are_rejected() {
        for length in [3, 27, 768] {
            assert_eq!(invalid_palette(&png(*b"PLTE", length)), None);
        }
        for length in [0, 28, 771] {
            let finding = invalid_palette(&png(*b"PLTE", length)).unwrap();
            assert_eq!(finding, format!("a PNG with a palette of {length} bytes"));
        }
        assert_eq!(invalid_palette(&png(*b"IDAT", 28)), None);
        assert_eq!(invalid_palette(b"\x89PNG"), None);
    }
}
