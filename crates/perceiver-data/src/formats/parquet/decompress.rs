//! Decompression with a bound on the output.

use std::io::{self, ErrorKind, Read};

use parquet::basic::Compression;

/// Decompresses `compressed` to exactly `size` bytes.
///
/// Allocates memory by actual output, not by claimed sizes, and at most `size` bytes whatever
/// `compressed` contains.
///
/// # Errors
/// When the output has another size, the data is damaged, or the compression is unknown.
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
        // Three formats have this name; the first that fits is used.
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

/// A bound on Snappy's expansion: a copy of 64 bytes takes three.
const MOST_SNAPPY: usize = 64;

fn snappy(compressed: &[u8], size: usize) -> io::Result<Vec<u8>> {
    let declared = snap::raw::decompress_len(compressed).map_err(io::Error::other)?;
    if declared != size {
        return Err(wrong_size(size, declared));
    }
    let mut bytes = zeros(compressed, size, MOST_SNAPPY)?;
    let mut decoder = snap::raw::Decoder::new();
    decoder
        .decompress(compressed, &mut bytes)
        .map_err(io::Error::other)?;
    Ok(bytes)
}

/// A bound on LZ4's expansion: a length is a sum of bytes, so one byte adds at most 255.
const MOST_LZ4: usize = 255;

fn lz4_block(compressed: &[u8], size: usize) -> io::Result<Vec<u8>> {
    let mut bytes = zeros(compressed, size, MOST_LZ4)?;
    let length = lz4_flex::block::decompress_into(compressed, &mut bytes);
    bytes.truncate(length.map_err(io::Error::other)?);
    Ok(bytes)
}

/// Decompresses Hadoop's LZ4 framing: each block is preceded by its size and its compressed size.
fn lz4_hadoop(mut compressed: &[u8], size: usize) -> io::Result<Vec<u8>> {
    let mut bytes = zeros(compressed, size, MOST_LZ4)?;
    let mut done = 0;
    while !compressed.is_empty() {
        let (block_size, rest) = be_u32(compressed)?;
        let (length, rest) = be_u32(rest)?;
        let (block, rest) = rest.split_at_checked(length).ok_or_else(cut_short)?;
        let range = done..done + block_size;
        let output = bytes.get_mut(range).ok_or_else(cut_short)?;
        let length = lz4_flex::block::decompress_into(block, output).map_err(io::Error::other)?;
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

/// Allocates `size` bytes, if `compressed` can expand to that many.
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
    io::Error::new(ErrorKind::InvalidData, "a truncated compressed block")
}

fn unsupported(compression: Compression) -> io::Error {
    let finding = format!("unsupported compression {compression}");
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

    /// Compresses the bytes with every codec.
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
    fn every_compression_round_trips() {
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
    fn wrong_declared_sizes_are_rejected() {
        for (compression, compressed) in all(&[7; 3000]) {
            for declared in [0, 1, 2999, 3001, 1 << 30] {
                let result = decompress(compression, &compressed, declared);
                assert!(result.is_err(), "{compression} declared as {declared}");
            }
        }
    }

    #[test]
    fn a_decompression_bomb_allocates_at_most_the_declared_size() {
        // 64 MiB of zeros, declared as a thousand bytes: the capacity shows how much was allocated.
        let bomb = gzip(&vec![0; 64 << 20]);
        let bytes = stream(flate2::read::MultiGzDecoder::new(&bomb[..]), 1000).unwrap();
        assert!(bytes.len() == 1001 && bytes.capacity() < 10_000);
        let error = decompress(Compression::GZIP(GzipLevel::default()), &bomb, 1000);
        let error = error.unwrap_err().to_string();
        assert_eq!(error, "expected 1000 decompressed bytes, found 1001");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), size in 0..100_000_usize) {
            for (compression, _) in all(&[0; 10]) {
                if let Ok(decompressed) = decompress(compression, &bytes, size) {
                    prop_assert_eq!(decompressed.len(), size);
                }
            }
        }
    }
}
