//! Value counts of delta-encoded Parquet pages.
//!
//! The `parquet` crate allocates memory for as many lengths as such a page claims, whatever its
//! header says.

/// Whether each of the `streams` delta-encoded length streams at the start of `data` has at most
/// `most` values.
pub(crate) fn claims_at_most(mut data: &[u8], streams: usize, most: u64) -> bool {
    (0..streams).all(|_| match stream(data) {
        Some((count, rest)) => {
            data = rest;
            count <= most
        }
        None => false,
    })
}

/// Returns the number of values in a stream of delta-packed integers, and the data after it.
fn stream(data: &[u8]) -> Option<(u64, &[u8])> {
    let (block, data) = varint(data)?;
    let (parts, data) = varint(data)?;
    let (count, data) = varint(data)?;
    let (_first, mut data) = varint(data)?;
    if parts == 0 || block % parts != 0 {
        return None;
    }
    let in_part = block / parts;
    let mut left = count.saturating_sub(1);
    while left > 0 {
        let (_least, after) = varint(data)?;
        let (widths, after) = after.split_at_checked(usize::try_from(parts).ok()?)?;
        let mut bytes = 0_u64;
        for &width in widths {
            if left > 0 {
                // Widths after the last value are meaningless.
                bytes = bytes.checked_add(u64::from(width).checked_mul(in_part)? / 8)?;
            }
            left = left.saturating_sub(in_part);
        }
        data = after.get(usize::try_from(bytes).ok()?..)?;
    }
    Some((count, data))
}

fn varint(data: &[u8]) -> Option<(u64, &[u8])> {
    let length = data.iter().take(10).position(|&byte| byte < 0x80)? + 1;
    let (number, rest) = data.split_at(length);
    let value = number.iter().rev();
    let value = value.fold(0_u64, |value, byte| {
        value.wrapping_shl(7) | u64::from(byte & 0x7f)
    });
    Some((value, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn counts_are_limited() {
        // 128 values per block in 4 parts, 5 values starting at 1 (zigzag): one block of 3 bits per
        // delta.
        let five = [0x80, 0x01, 4, 5, 2, 0, 3, 0, 0, 0];
        let data = [&five[..], &[0xff; 12], b"rest"].concat();
        assert_eq!(stream(&data), Some((5, &b"rest"[..])));
        assert!(claims_at_most(&data, 1, 5) && !claims_at_most(&data, 1, 4));
        assert!(!claims_at_most(&data, 2, 5), "what follows is no stream");
        let many = [0x80, 0x01, 4, 0xff, 0xff, 0xff, 0xff, 0x0f, 2];
        assert!(!claims_at_most(&many, 1, 1 << 20));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            claims_at_most(&bytes, 2, 10);
        }
    }
}
