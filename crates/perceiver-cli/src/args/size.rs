//! Sizes in bytes as flags have them: `20MiB`, `1.5GB`, `4096`.

/// The units, by their factor.
const UNITS: [(&str, f64); 8] = [
    ("kib", 1024.0),
    ("mib", 1_048_576.0),
    ("gib", 1_073_741_824.0),
    ("kb", 1e3),
    ("mb", 1e6),
    ("gb", 1e9),
    ("b", 1.0),
    ("", 1.0),
];

/// The largest size, which every number here represents exactly.
const MOST: f64 = 9e15;

/// Parses a size in bytes above 0, for `value_parser`.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let expected = || "expected a size above 0, such as 20MiB, 1.5GB or 4096 (bytes)".to_string();
    let text = text.trim().to_ascii_lowercase();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    let factor = UNITS.iter().find(|(name, _)| *name == unit);
    let (_, factor) = factor.ok_or_else(expected)?;
    let number: f64 = digits.trim_end().parse().map_err(|_| expected())?;
    let size = (number * factor).round();
    if (1.0..=MOST).contains(&size) {
        Ok(size as u64)
    } else {
        Err(expected())
    }
}

/// Formats a size in bytes in binary units.
pub(crate) fn shown(bytes: u64) -> String {
    match bytes {
        ..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{} KiB", bytes.div_ceil(1 << 10)),
        _ => format!("{} MiB", bytes.div_ceil(1 << 20)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_and_decimal_units() {
        for (text, expected) in [
            ("4096", 4096),
            ("20MiB", 20 << 20),
            ("20 mib", 20 << 20),
            ("1.5GB", 1_500_000_000),
            ("1kB", 1000),
            ("7b", 7),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in [
            "", "0", "-1", "MiB", "1 TiB", "nan", "inf", "1e300", "0.1", "1MiB2",
        ] {
            assert!(bytes(text).unwrap_err().contains("20MiB"), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_rounded_up() {
        assert_eq!(
            [1023, 1025, 20 << 20].map(shown),
            ["1023 B", "2 KiB", "20 MiB"]
        );
    }
}
