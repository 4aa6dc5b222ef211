//! Writes the seeds of `tests/fuzz`, small files of every form that a reader supports, and the
//! fixed files that the bodies use:
//!
//! ```text
//! cargo run -p fuzz-bodies --example make_seeds
//! ```

use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;
use flate2::write::GzEncoder;
use parquet::basic::{BrotliLevel, Compression, Encoding, GzipLevel, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use perceiver_data::Image;
use perceiver_train::{MetricsFile, Preset, Recipe, RunDirectory, Trainer, TrainingData};

type Done = Result<(), Box<dyn Error>>;

fn main() -> Done {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let seeds = Seeds(here.join("../fuzz/seeds"));
    run(&here.join("seeds"), &seeds)?;
    recipes(&seeds)?;
    cifar(&seeds)?;
    images(here, &seeds)?;
    tars(&seeds)?;
    parquets(&seeds)
}

/// The directory of the seeds.
struct Seeds(PathBuf);

impl Seeds {
    fn add(&self, target: &str, name: &str, bytes: &[u8]) -> Done {
        let folder = self.0.join(target);
        fs::create_dir_all(&folder)?;
        Ok(fs::write(folder.join(name), bytes)?)
    }
}

/// A model of a few hundred parameters, trained for two steps.
const TINY: &str = r"
[model]
image_size = 8
patch_size = 8
latent_dim = 1
projection_dim = 2
num_heads = 1
head_dim = 1
num_transformer_blocks = 1
num_iterations = 1
ffn_units = [2]
classifier_units = [20]
[data]
limit_train = 40
limit_test = 20
[training]
epochs = 1
batch_size = 20
ema_decay = 0.5
";

fn run(bodies: &Path, seeds: &Seeds) -> Done {
    let layers = [("quickstart", Preset::Quickstart.toml()), ("tiny", TINY)];
    let recipe = Recipe::from_layers(&layers)?;
    let root = tempfile::tempdir()?;
    let directory = RunDirectory::unused(root.path().join("run"))?;
    let data = TrainingData::load(&recipe)?;
    let mut metrics = MetricsFile::new(directory.metrics());
    let mut trainer = Trainer::start(recipe, data, directory.clone(), Device::Cpu)?;
    trainer.fit(&mut metrics)?;
    for path in [directory.config(), directory.recipe(), directory.model()] {
        fs::copy(&path, bodies.join(path.file_name().unwrap_or_default()))?;
    }
    seeds.add("config", "ok-run", &fs::read(directory.config())?)?;
    seeds.add(
        "config",
        "lists",
        b"[[[[{\"model\": {\"image_size\": 1e9}}]]]]",
    )?;
    seeds.add("recipe", "ok-run", &fs::read(directory.recipe())?)?;
    seeds.add("weights", "ok-run", &fs::read(directory.model())?)?;
    seeds.add("weights", "empty", b"\x08\0\0\0\0\0\0\0{}      ")?;
    seeds.add("state", "ok-run", &fs::read(directory.state())?)
}

fn recipes(seeds: &Seeds) -> Done {
    for (name, preset) in [
        ("ok-keras", Preset::Keras),
        ("ok-quickstart", Preset::Quickstart),
    ] {
        let recipe = Recipe::from_layers(&[(name, preset.toml())])?;
        seeds.add("recipe", name, recipe.to_toml()?.as_bytes())?;
    }
    Ok(())
}

fn cifar(seeds: &Seeds) -> Done {
    let names = b"airplane\nbird\n";
    for (which, name, labels) in [(0, "ok-10", &[1][..]), (1, "ok-100", &[0, 1])] {
        let pixels: Vec<u8> = (0..3072_u32).map(|at| (at % 7) as u8).collect();
        let head = [which, names.len() as u8];
        let input = [&head[..], names, labels, &pixels].concat();
        seeds.add("cifar", name, &input)?;
    }
    seeds.add("cifar", "no-names", &[1, 0, 3, 4])
}

fn gradient() -> Image {
    let pixels = (0..3 * 12 * 10_u32).map(|at| (at * 5 % 251) as u8);
    Image::new(12, 10, pixels.collect()).expect("as many as it takes")
}

fn images(here: &Path, seeds: &Seeds) -> Done {
    seeds.add("image", "ok-rgb.png", &gradient().to_png()?)?;
    let samples = here.join("../../crates/perceiver-data/src/decode/samples");
    for entry in fs::read_dir(samples)? {
        let path = entry?.path();
        let (name, bytes) = (path.file_name().unwrap_or_default(), fs::read(&path)?);
        if path.is_file() && bytes.len() < 8000 {
            seeds.add("image", &format!("ok-{}", name.to_string_lossy()), &bytes)?;
        }
    }
    let rgb = image::RgbImage::from_fn(12, 10, |x, y| image::Rgb([x as u8 * 20, y as u8 * 20, 9]));
    let rgba =
        image::RgbaImage::from_fn(5, 4, |x, y| image::Rgba([x as u8 * 50, 7, 9, y as u8 * 60]));
    let grey = image::ImageBuffer::from_fn(6, 5, |x, y| image::Luma([(x * y * 2000) as u16]));
    let all: [(&str, image::DynamicImage, image::ImageFormat); 8] = [
        ("ok-rgb.jpg", rgb.clone().into(), image::ImageFormat::Jpeg),
        ("ok-rgb.webp", rgb.clone().into(), image::ImageFormat::WebP),
        ("ok-rgb.tiff", rgb.clone().into(), image::ImageFormat::Tiff),
        ("ok-rgb.bmp", rgb.into(), image::ImageFormat::Bmp),
        ("ok-alpha.gif", rgba.clone().into(), image::ImageFormat::Gif),
        ("ok-alpha.png", rgba.clone().into(), image::ImageFormat::Png),
        ("ok-alpha.bmp", rgba.into(), image::ImageFormat::Bmp),
        ("ok-grey16.png", grey.into(), image::ImageFormat::Png),
    ];
    for (name, image, format) in all {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image.write_to(&mut bytes, format)?;
        seeds.add("image", name, bytes.get_ref())?;
    }
    Ok(())
}

fn tars(seeds: &Seeds) -> Done {
    let png = Image::new(2, 2, vec![9; 12])?.to_png()?;
    let long = "deep/".repeat(30);
    let tar = |prefix: &str, pax: bool| -> Result<Vec<u8>, Box<dyn Error>> {
        let mut tar = tar::Builder::new(Vec::new());
        for key in ["0", "1"] {
            for (extension, content) in [("png", &png[..]), ("cls", key.as_bytes())] {
                if pax {
                    tar.append_pax_extensions([("comment", &b"made for a fuzzer"[..])])?;
                }
                let mut header = tar::Header::new_gnu();
                header.set_size(content.len() as u64);
                tar.append_data(&mut header, format!("{prefix}{key}.{extension}"), content)?;
            }
        }
        Ok(tar.into_inner()?)
    };
    seeds.add("tar", "ok-gnu", &tar("", false)?)?;
    seeds.add("tar", "ok-long-names", &tar(&long, false)?)?;
    seeds.add("tar", "ok-pax", &tar("", true)?)?;
    let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&tar(&long, true)?)?;
    seeds.add("tar", "compressed", &gzip.finish()?)
}

const SCHEMA: &str = "message rows {
    optional group image { optional binary bytes; optional binary path (STRING); }
    optional int64 label;
}";

fn parquets(seeds: &Seeds) -> Done {
    let gzip = Compression::GZIP(GzipLevel::default());
    let zstd = Compression::ZSTD(ZstdLevel::default());
    let brotli = Compression::BROTLI(BrotliLevel::default());
    let (first, second) = (WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0);
    let (lengths, prefixes) = (
        Encoding::DELTA_LENGTH_BYTE_ARRAY,
        Encoding::DELTA_BYTE_ARRAY,
    );
    for (name, compression, version, encoding) in [
        ("ok-dictionary", Compression::SNAPPY, first, None),
        (
            "ok-plain",
            Compression::UNCOMPRESSED,
            first,
            Some(Encoding::PLAIN),
        ),
        ("ok-gzip", gzip, second, Some(Encoding::PLAIN)),
        ("ok-zstd", zstd, second, Some(lengths)),
        ("ok-brotli", brotli, first, Some(prefixes)),
        ("ok-lz4", Compression::LZ4, first, None),
        ("ok-lz4-raw", Compression::LZ4_RAW, second, None),
    ] {
        let mut properties = WriterProperties::builder()
            .set_compression(compression)
            .set_writer_version(version)
            .set_dictionary_enabled(encoding.is_none());
        if let Some(encoding) = encoding {
            properties = properties.set_column_encoding("image.bytes".into(), encoding);
        }
        seeds.add("parquet", name, &parquet(properties.build())?)?;
    }
    Ok(())
}

fn parquet(properties: WriterProperties) -> Result<Vec<u8>, Box<dyn Error>> {
    let png = |value| Image::new(2, 2, vec![value; 12]).map(|image| image.to_png());
    let images = [
        ByteArray::from(png(3)??),
        png(200)??.into(),
        png(3)??.into(),
    ];
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties))?;
    let mut group = writer.next_row_group()?;
    for values in [&images[..], &[]] {
        let level = if values.is_empty() { 1 } else { 2 };
        let mut column = group.next_column()?.ok_or("three columns")?;
        column
            .typed::<ByteArrayType>()
            .write_batch(values, Some(&[level; 3]), None)?;
        column.close()?;
    }
    let mut column = group.next_column()?.ok_or("three columns")?;
    column
        .typed::<Int64Type>()
        .write_batch(&[0, 1, 0], Some(&[1; 3]), None)?;
    column.close()?;
    group.close()?;
    Ok(writer.into_inner()?)
}
