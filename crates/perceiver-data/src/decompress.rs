//! Decompression of what says how large it will be, and is held to that.

use std::io::{self, ErrorKind, Read};

use parquet::basic::Compression;

/// The bytes that `compressed` comes to, which are `size`.
///
/// Memory is taken for what comes out, not for what is claimed: no more than `size` bytes whatever is in `compressed`.
///
/// # Errors
/// When it comes to more or less, is damaged, or was compressed in a way that is not known.
pub(crate) fn decompress(
    compression: Compression,
    compressed: &[u8],
    size: usize,
) -> io::Result<Vec<u8>> {
    let bytes = match compression {
        Compression::SNAPPY => snappy(compressed, size),
        Compression::GZIP(_) => stream(flate2::read::MultiGzDecoder::new(compressed), size),
        Compression::BROTLI(_) => stream(brotli::Decompressor::new(compressed, 4096), size),
        Compression::ZSTD(_) => zstd::bulk::decompress(compressed, size),
        Compression::LZ4_RAW => lz4_block(compressed, size),
        // By that name three ways are known; the first that fits is the one.
        Compression::LZ4 => lz4_hadoop(compressed, size)
            .or_else(|_| stream(lz4_flex::frame::FrameDecoder::new(compressed), size))
            .or_else(|_| lz4_block(compressed, size)),
        other => Err(unsupported(other)),
    }?;
    if bytes.len() != size {
        return Err(wrong_size(size, bytes.len()));
    }
    Ok(bytes)
}

fn stream(decoder: impl Read, size: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    decoder.take(size as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The most that 64 bytes in a row come to is three bytes of a copy.
const MOST_SNAPPY: usize = 64;

fn snappy(compressed: &[u8], size: usize) -> io::Result<Vec<u8>> {
    let told = snap::raw::decompress_len(compressed).map_err(io::Error::other)?;
    if told != size {
        return Err(wrong_size(size, told));
    }
    let mut bytes = zeros(compressed, size, MOST_SNAPPY)?;
    let mut decoder = snap::raw::Decoder::new();
    decoder
        .decompress(compressed, &mut bytes)
        .map_err(io::Error::other)?;
    Ok(bytes)
}

/// A length is written as a sum of bytes, so that a byte stands for 255 at most.
const MOST_LZ4: usize = 255;

fn lz4_block(compressed: &[u8], size: usize) -> io::Result<Vec<u8>> {
    let mut bytes = zeros(compressed, size, MOST_LZ4)?;
    let length = lz4_flex::block::decompress_into(compressed, &mut bytes);
    bytes.truncate(length.map_err(io::Error::other)?);
    Ok(bytes)
}

/// Blocks with their size and that of what is compressed before each, as Hadoop writes them.
fn lz4_hadoop(mut compressed: &[u8], size: usize) -> io::Result<Vec<u8>> {
    let mut bytes = zeros(compressed, size, MOST_LZ4)?;
    let mut done = 0;
    while !compressed.is_empty() {
        let (block_size, rest) = be_u32(compressed)?;
        let (length, rest) = be_u32(rest)?;
        let (block, rest) = rest.split_at_checked(length).ok_or_else(cut_short)?;
        let place = done..done + block_size;
        let place = bytes.get_mut(place).ok_or_else(cut_short)?;
        let length = lz4_flex::block::decompress_into(block, place).map_err(io::Error::other)?;
        if length != block_size {
            return Err(wrong_size(block_size, length));
        }
        (done, compressed) = (done + block_size, rest);
    }
    bytes.truncate(done);
    Ok(bytes)
}

fn be_u32(bytes: &[u8]) -> io::Result<(usize, &[u8])> {
    let (number, rest) = bytes.split_first_chunk().ok_or_else(cut_short)?;
    Ok((u32::from_be_bytes(*number) as usize, rest))
}

/// Room for `size` bytes, where `compressed` can come to as many.
fn zeros(compressed: &[u8], size: usize, most: usize) -> io::Result<Vec<u8>> {
    let possible = compressed.len().saturating_mul(most);
    if size > possible {
        return Err(wrong_size(size, possible));
    }
    Ok(vec![0; size])
}

fn wrong_size(expected: usize, found: usize) -> io::Error {
    let finding = format!("expected {expected} decompressed bytes, found {found}");
    io::Error::new(ErrorKind::InvalidData, finding)
}

fn cut_short() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "a compressed block cut short")
}

fn unsupported(compression: Compression) -> io::Error {
    let finding = format!("compression {compression}, which is not supported");
    io::Error::new(ErrorKind::Unsupported, finding)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::GzEncoder;
    use parquet::basic::{BrotliLevel, GzipLevel, ZstdLevel};
    use proptest::prelude::*;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn brotli(bytes: &[u8]) -> Vec<u8> {
        let mut compressed = Vec::new();
        brotli::CompressorWriter::new(&mut compressed, 4096, 5, 22)
            .write_all(bytes)
            .unwrap();
        compressed
    }

    fn lz4_frame(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn hadoop(bytes: &[u8]) -> Vec<u8> {
        let blocks = bytes.chunks(1000).flat_map(|block| {
            let compressed = lz4_flex::block::compress(block);
            let sizes = [block.len() as u32, compressed.len() as u32].map(u32::to_be_bytes);
            [sizes.concat(), compressed].concat()
        });
        blocks.collect()
    }

    /// Every way, with what it makes of these bytes.
    fn all(bytes: &[u8]) -> Vec<(Compression, Vec<u8>)> {
        let snappy = snap::raw::Encoder::new().compress_vec(bytes).unwrap();
        vec![
            (Compression::SNAPPY, snappy),
            (Compression::GZIP(GzipLevel::default()), gzip(bytes)),
            (
                Compression::GZIP(GzipLevel::default()),
                [
                    gzip(&bytes[..bytes.len() / 2]),
                    gzip(&bytes[bytes.len() / 2..]),
                ]
                .concat(),
            ),
            (Compression::BROTLI(BrotliLevel::default()), brotli(bytes)),
            (
                Compression::ZSTD(ZstdLevel::default()),
                zstd::bulk::compress(bytes, 3).unwrap(),
            ),
            (Compression::LZ4_RAW, lz4_flex::block::compress(bytes)),
            (Compression::LZ4, hadoop(bytes)),
            (Compression::LZ4, lz4_frame(bytes)),
            (Compression::LZ4, lz4_flex::block::compress(bytes)),
        ]
    }

    #[test]
    fn what_was_compressed_comes_out_again_whatever_way() {
        let bytes: Vec<u8> = (0..50_000_u32).map(|at| (at / 7 % 251) as u8).collect();
        let zeros = vec![0; 100_000];
        for bytes in [&bytes[..], &bytes[..1], &zeros] {
            for (compression, compressed) in all(bytes) {
                let again = decompress(compression, &compressed, bytes.len());
                assert!(again.unwrap() == bytes, "{compression}");
            }
        }
    }

    #[test]
    fn more_and_less_than_was_told_are_refused() {
        for (compression, compressed) in all(&[7; 3000]) {
            for told in [0, 1, 2999, 3001, 1 << 30] {
                let found = decompress(compression, &compressed, told);
                assert!(found.is_err(), "{compression} told as {told}");
            }
        }
    }

    #[test]
    fn a_bomb_takes_no_more_than_was_told() {
        // 64 MiB of zeros, told as a thousand bytes: what is set aside is seen by the capacity.
        let bomb = gzip(&vec![0; 64 << 20]);
        let bytes = stream(flate2::read::MultiGzDecoder::new(&bomb[..]), 1000).unwrap();
        assert!(bytes.len() == 1001 && bytes.capacity() < 10_000);
        let error = decompress(Compression::GZIP(GzipLevel::default()), &bomb, 1000);
        let error = error.unwrap_err().to_string();
        assert_eq!(error, "expected 1000 decompressed bytes, found 1001");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), size in 0..100_000_usize) {
            for (compression, _) in all(&[0; 10]) {
                if let Ok(found) = decompress(compression, &bytes, size) {
                    prop_assert_eq!(found.len(), size);
                }
            }
        }
    }
}
