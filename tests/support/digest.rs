//! Checksums in hexadecimal.

/// Encodes bytes in lowercase hexadecimal.
///
/// ```
/// assert_eq!(perceiver_tests::digest::hex(&[0, 0xa5]), "00a5");
/// ```
pub fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    digits
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}
