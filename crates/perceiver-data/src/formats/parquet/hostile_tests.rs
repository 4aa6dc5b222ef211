//! Tests of `footer.rs` and `pages.rs`: valid files of every form, and files with false claims.

use std::fs;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{BrotliLevel, Compression, Encoding, GzipLevel, ZstdLevel};
use parquet::column::page::{Page, PageReader};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use crate::dataset::image::Image;
use crate::formats::parquet::pages::Pages;
use crate::formats::parquet::{ParquetOptions, read_parquet};
use crate::formats::shards::{self, ShardColumns};

const SCHEMA: &str = "message rows { required binary image; optional int64 label; }";

/// Images of six classes, with some repeated.
fn images() -> Vec<Vec<u8>> {
    let png = |at: u8| {
        Image::new(2, 3, vec![at % 11; 18])
            .unwrap()
            .to_png()
            .unwrap()
    };
    (0..60).map(png).collect()
}

/// Writes a file of two row groups of [`images`].
fn write(path: &Path, properties: WriterProperties) {
    let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
    let file = File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    for images in images().chunks(40) {
        let mut group = writer.next_row_group().unwrap();
        let values: Vec<ByteArray> = images.iter().cloned().map(ByteArray::from).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<ByteArrayType>()
            .write_batch(&values, None, None)
            .unwrap();
        column.close().unwrap();
        let labels: Vec<i64> = (0..6).cycle().take(images.len()).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<Int64Type>()
            .write_batch(&labels, Some(&vec![1; labels.len()]), None)
            .unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
}

/// Describes a page in the fields on which two page readers of a column must agree.
fn described(page: &Page) -> String {
    let mut page = page.clone();
    // Statistics are not read here.
    if let Page::DataPage { statistics, .. } | Page::DataPageV2 { statistics, .. } = &mut page {
        *statistics = None;
    }
    format!("{page:?}")
}

#[test]
fn pages_equal_those_of_the_parquet_crate() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    let encoded = images();
    let compressions = [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::ZSTD(ZstdLevel::default()),
        Compression::BROTLI(BrotliLevel::default()),
        Compression::LZ4,
        Compression::LZ4_RAW,
    ];
    let forms = [
        None,
        Some(Encoding::PLAIN),
        Some(Encoding::DELTA_LENGTH_BYTE_ARRAY),
        Some(Encoding::DELTA_BYTE_ARRAY),
    ];
    let versions = [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0];
    for (compression, form) in compressions.into_iter().flat_map(|c| forms.map(|f| (c, f))) {
        for version in versions {
            let what = format!("{compression} {form:?} {version:?}");
            let mut properties = WriterProperties::builder()
                .set_compression(compression)
                .set_writer_version(version)
                .set_write_batch_size(7)
                .set_data_page_row_count_limit(20)
                .set_dictionary_enabled(form.is_none());
            if let Some(form) = form {
                properties = properties.set_column_encoding("image".into(), form);
            }
            write(&path, properties.build());

            let file = File::open(&path).unwrap();
            let theirs = SerializedFileReader::new(file.try_clone().unwrap()).unwrap();
            for (number, group) in theirs.metadata().row_groups().iter().enumerate() {
                let reader = theirs.get_row_group(number).unwrap();
                for (column, level) in [(0, 0), (1, 1)] {
                    let ours = Pages::new(&file, group.column(column), level).unwrap();
                    let ours: Vec<_> = ours.map(|page| described(&page.unwrap())).collect();
                    let pages = reader.get_column_page_reader(column).unwrap();
                    let expected: Vec<_> = pages.map(|page| described(&page.unwrap())).collect();
                    assert_eq!(ours, expected, "{what}");
                }
            }
            let columns = ShardColumns::default();
            let labels = shards::parquet_index(&path, &columns).unwrap().labels;
            assert_eq!(labels.len(), 60, "{what}");
            // Rows on both sides of page and group boundaries, and dictionaries that are skipped
            // first.
            let rows = [3, 19, 20, 39, 40, 59];
            let expected = rows.map(|row| encoded[row].clone());
            assert_eq!(
                shards::parquet_read(&path, &columns, &rows).unwrap(),
                expected,
                "{what}"
            );
            let data =
                read_parquet("x", std::slice::from_ref(&path), &ParquetOptions::default()).unwrap();
            assert_eq!(data.len(), 60, "{what}");
        }
    }
}

#[test]
fn peeking_does_not_consume_a_page() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    write(&path, WriterProperties::builder().build());
    let file = File::open(&path).unwrap();
    let reader = SerializedFileReader::new(file.try_clone().unwrap()).unwrap();
    let mut pages = Pages::new(&file, reader.metadata().row_group(0).column(0), 0).unwrap();
    assert!(pages.peek_next_page().unwrap().unwrap().is_dict);
    pages.skip_next_page().unwrap();
    let levels = pages.peek_next_page().unwrap().unwrap().num_levels;
    assert_eq!(levels, Some(40));
    assert!(pages.get_next_page().unwrap().unwrap().is_data_page());
    let dictionary = pages.take_deferred_dictionary().unwrap().unwrap();
    assert!(dictionary.is_dictionary_page());
    assert!(pages.take_deferred_dictionary().unwrap().is_none());
    assert!(pages.peek_next_page().unwrap().is_none() && pages.get_next_page().unwrap().is_none());
}

/// A writer of Thrift's compact protocol.
#[derive(Default)]
struct Fields {
    bytes: Vec<u8>,
    last: u8,
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn zigzag(value: i64) -> Vec<u8> {
    varint(((value << 1) ^ (value >> 63)).cast_unsigned())
}

impl Fields {
    fn add(mut self, id: u8, kind: u8, value: &[u8]) -> Self {
        self.bytes.push((id - self.last) << 4 | kind);
        self.bytes.extend(value);
        self.last = id;
        self
    }
    fn i32(self, id: u8, value: i64) -> Self {
        self.add(id, 5, &zigzag(value))
    }
    fn i64(self, id: u8, value: i64) -> Self {
        self.add(id, 6, &zigzag(value))
    }
    fn text(self, id: u8, text: &str) -> Self {
        let length = varint(text.len() as u64);
        self.add(id, 8, &[&length, text.as_bytes()].concat())
    }
    fn list(self, id: u8, kind: u8, items: &[Vec<u8>]) -> Self {
        let mut list = vec![0xf0 | kind];
        list.extend(varint(items.len() as u64));
        list.extend(items.concat());
        self.add(id, 9, &list)
    }
    fn nested(self, id: u8, fields: Self) -> Self {
        let fields = fields.end();
        self.add(id, 12, &fields)
    }
    fn end(mut self) -> Vec<u8> {
        self.bytes.push(0);
        self.bytes
    }
}

fn length(bytes: &[u8]) -> i64 {
    i64::try_from(bytes.len()).unwrap()
}

/// Builds a data page of `values` values that claims these sizes.
fn page(values: i64, size: i64, compressed_size: i64, encoding: i64, body: &[u8]) -> Vec<u8> {
    let own = Fields::default()
        .i32(1, values)
        .i32(2, encoding)
        .i32(3, 3)
        .i32(4, 3);
    let header = Fields::default()
        .i32(1, 0)
        .i32(2, size)
        .i32(3, compressed_size)
        .nested(5, own);
    [header.end(), body.to_vec()].concat()
}

/// The parts of a hostile file.
struct Hostile {
    labels: Vec<u8>,
    images: Vec<u8>,
    compression: i64,
    rows: i64,
    schema: Vec<Vec<u8>>,
}

/// Builds a column of the schema.
fn leaf(kind: i64, name: &str) -> Vec<u8> {
    Fields::default().i32(1, kind).i32(3, 0).text(4, name).end()
}

impl Hostile {
    /// Creates a valid file of six rows.
    fn new() -> Self {
        let labels: Vec<u8> = (0..6_i64).flat_map(|at| (at % 2).to_le_bytes()).collect();
        let images: Vec<u8> = images()[..6]
            .iter()
            .flat_map(|image| [&(image.len() as u32).to_le_bytes(), &image[..]].concat())
            .collect();
        let plain = |bytes: &[u8]| page(6, length(bytes), length(bytes), 0, bytes);
        Self {
            labels: plain(&labels),
            images: plain(&images),
            compression: 0,
            rows: 6,
            schema: vec![
                Fields::default().text(4, "schema").i32(5, 2).end(),
                leaf(2, "label"),
                leaf(6, "image"),
            ],
        }
    }

    fn file(&self) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.parquet");
        let mut bytes = b"PAR1".to_vec();
        let column = |kind, name: &str, compression, at: usize, page: &[u8]| {
            let size = length(page);
            let metadata = Fields::default()
                .i32(1, kind)
                .list(2, 5, &[zigzag(0)])
                .list(3, 8, &[[varint(name.len() as u64), name.into()].concat()])
                .i32(4, compression)
                .i64(5, self.rows)
                .i64(6, size)
                .i64(7, size)
                .i64(9, i64::try_from(at).unwrap());
            Fields::default()
                .i64(2, i64::try_from(at).unwrap())
                .nested(3, metadata)
                .end()
        };
        let columns = [
            column(2, "label", 0, bytes.len(), &self.labels),
            column(
                6,
                "image",
                self.compression,
                bytes.len() + self.labels.len(),
                &self.images,
            ),
        ];
        bytes.extend([&self.labels[..], &self.images].concat());
        let group = Fields::default()
            .list(1, 12, &columns)
            .i64(2, 1)
            .i64(3, self.rows);
        let footer = Fields::default()
            .i32(1, 1)
            .list(2, 12, &self.schema)
            .i64(3, self.rows)
            .list(4, 12, &[group.end()])
            .end();
        bytes.extend(&footer);
        bytes.extend((footer.len() as u32).to_le_bytes());
        bytes.extend(b"PAR1");
        fs::write(&path, bytes).unwrap();
        (dir, path)
    }

    fn error_text(&self) -> String {
        let (_dir, path) = self.file();
        let whole = read_parquet("x", std::slice::from_ref(&path), &ParquetOptions::default());
        let whole = whole.unwrap_err().to_string();
        // As a shard it is rejected too, while indexing or reading.
        let columns = ShardColumns::default();
        let by_row = shards::parquet_index(&path, &columns).and_then(|file| {
            let rows: Vec<usize> = (0..file.labels.len()).collect();
            shards::parquet_read(&path, &columns, &rows)
        });
        assert!(by_row.is_err());
        let (_, finding) = whole.split_once("x.parquet").unwrap();
        finding.to_owned()
    }
}

#[test]
fn the_unmodified_file_is_valid() {
    let (_dir, path) = Hostile::new().file();
    let data = read_parquet("x", &[path], &ParquetOptions::default()).unwrap();
    assert_eq!(data.labels(), [0, 1, 0, 1, 0, 1]);
}

/// The compression codecs with their Thrift numbers.
const CODECS: [(&str, i64); 6] = [
    ("snappy", 1),
    ("gzip", 2),
    ("brotli", 4),
    ("lz4", 5),
    ("zstd", 6),
    ("lz4_raw", 7),
];

#[test]
fn oversized_pages_are_rejected_by_name() {
    for (name, codec) in CODECS {
        for claimed in [i64::from(i32::MAX), (1 << 30) + 1, -1] {
            let hostile = Hostile {
                images: page(6, claimed, 20, 0, &[0; 20]),
                compression: codec,
                ..Hostile::new()
            };
            let expected = format!(
                " cannot be read as Parquet: found External: a page of {claimed} bytes, expected at most 1024 MiB"
            );
            assert_eq!(hostile.error_text(), expected, "{name}");
        }
    }
}

#[test]
fn pages_with_false_sizes_are_rejected() {
    for (name, codec) in CODECS {
        for body in [
            &[0; 20][..],
            b"\xff\xff\xff\xff\x03\0\0\0\0\0",
            b"\x80\x80\x80\x80\x04\0\0",
        ] {
            let hostile = Hostile {
                images: page(6, 1 << 30, length(body), 0, body),
                compression: codec,
                ..Hostile::new()
            };
            assert!(
                hostile.error_text().contains("cannot be read as Parquet"),
                "{name}"
            );
        }
    }
}

#[test]
fn gzip_pages_larger_than_declared_are_rejected() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let block = vec![0; 1 << 20];
    for _ in 0..256 {
        encoder.write_all(&block).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    let hostile = Hostile {
        images: page(6, 1000, length(&bomb), 0, &bomb),
        compression: 2,
        ..Hostile::new()
    };
    assert!(
        hostile
            .error_text()
            .ends_with("expected 1000 decompressed bytes, found 1001"),
        "{}",
        hostile.error_text()
    );
}

#[test]
fn counts_beyond_the_data_are_rejected() {
    let many = i64::from(i32::MAX);
    let lengths = [0x80, 0x01, 4, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 2];
    for (what, hostile) in [
        (
            "labels",
            Hostile {
                labels: page(many, 16, 16, 0, &[0; 16]),
                ..Hostile::new()
            },
        ),
        (
            "images",
            Hostile {
                images: page(many, 16, 16, 0, &[0; 16]),
                ..Hostile::new()
            },
        ),
        (
            "rows",
            Hostile {
                rows: 1 << 62,
                ..Hostile::new()
            },
        ),
        (
            "no rows",
            Hostile {
                rows: -5,
                ..Hostile::new()
            },
        ),
        (
            "delta lengths",
            Hostile {
                images: page(6, 10, 10, 6, &lengths),
                ..Hostile::new()
            },
        ),
        (
            "delta prefixes",
            Hostile {
                images: page(6, 10, 10, 7, &lengths),
                ..Hostile::new()
            },
        ),
        ("a dictionary", {
            let own = Fields::default().i32(1, many).i32(2, 0);
            let header = Fields::default()
                .i32(1, 2)
                .i32(2, 8)
                .i32(3, 8)
                .nested(7, own)
                .end();
            let images = [header, vec![0; 8]].concat();
            Hostile {
                images,
                ..Hostile::new()
            }
        }),
        ("labels that repeat", {
            // A run of 2^30 equal values from a dictionary of one.
            let own = Fields::default().i32(1, 1).i32(2, 0);
            let header = Fields::default()
                .i32(1, 2)
                .i32(2, 8)
                .i32(3, 8)
                .nested(7, own)
                .end();
            let run = [&[1][..], &varint(1 << 31), &[0]].concat();
            let run = page(1 << 30, length(&run), length(&run), 8, &run);
            Hostile {
                labels: [header, vec![0; 8], run].concat(),
                ..Hostile::new()
            }
        }),
    ] {
        assert!(!hostile.error_text().is_empty(), "{what}");
    }
}

#[test]
fn deeply_nested_columns_are_rejected() {
    let mut schema = vec![Fields::default().text(4, "schema").i32(5, 1).end()];
    let group = Fields::default().i32(3, 0).text(4, "g").i32(5, 1).end();
    schema.extend(vec![group; 9000]);
    schema.push(leaf(6, "image"));
    let hostile = Hostile {
        schema,
        ..Hostile::new()
    };
    assert!(
        hostile
            .error_text()
            .ends_with("columns nested more than 64 deep")
    );
    let hostile = Hostile {
        schema: vec![leaf(6, "image"); 10_001],
        ..Hostile::new()
    };
    assert!(
        hostile
            .error_text()
            .ends_with("10001 columns, expected at most 10000")
    );
}

#[test]
fn oversized_footers_are_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    let mut file = File::create(&path).unwrap();
    file.set_len(1 << 30).unwrap(); // sparse
    std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).unwrap();
    file.write_all(&(1_u32 << 29).to_le_bytes()).unwrap();
    file.write_all(b"PAR1").unwrap();
    let error = shards::parquet_index(&path, &ShardColumns::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("a footer of 536870912 bytes, expected at most 16 MiB"),
        "{error}"
    );
}
