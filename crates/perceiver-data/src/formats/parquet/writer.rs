//! Writes a data set as a Parquet file in the Hub's form, readable by Python's `datasets` library
//! with images and class names, and by [`read_parquet`](crate::read_parquet).

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use rayon::prelude::*;
use serde_json::json;

use crate::dataset::Dataset;
use crate::dataset::image::Image;
use crate::error::{DataError, Result};

const PLAIN: &str = "message dataset {
    optional group image { optional binary bytes; optional binary path (STRING); }
    optional int64 label;
}";

/// The columns of CIFAR-100 on the Hub.
const GROUPED: &str = "message dataset {
    optional group img { optional binary bytes; optional binary path (STRING); }
    optional int64 fine_label;
    optional int64 coarse_label;
}";

/// Writes `dataset` to `path`: images as PNG in column `image` and labels in `label`, or, if its
/// classes have groups, in `img`, `fine_label` and `coarse_label`. Class names go into the
/// metadata.
///
/// ```
/// use perceiver_data::{Dataset, Image, ParquetOptions, read_parquet, write_parquet};
///
/// let picture = Image::new(1, 2, vec![0, 51, 102, 153, 204, 255])?;
/// let pets = Dataset::new("pets", vec![picture], vec![1], vec!["cat".into(), "dog".into()])?;
/// let dir = tempfile::tempdir().unwrap();
/// let file = dir.path().join("train-00000-of-00001.parquet");
/// write_parquet(&file, &pets)?;
/// let again = read_parquet("pets", &[file], &ParquetOptions::default())?;
/// assert_eq!(again.sha256(), pets.sha256());
/// # Ok::<(), perceiver_data::DataError>(())
/// ```
pub fn write_parquet(path: &Path, dataset: &Dataset) -> Result<()> {
    let images = dataset
        .images()
        .par_iter()
        .map(|image| Ok(Some(png(path, image)?)))
        .collect::<Result<Vec<_>>>()?;
    let no_paths = Cells::Bytes(vec![None; dataset.len()]);
    let labels = Cells::Integers(
        dataset
            .labels()
            .iter()
            .map(|&label| Some(label.into()))
            .collect(),
    );
    let class_label = |names: &[String]| json!({"names": names, "_type": "ClassLabel"});
    let image_feature = json!({"_type": "Image"});
    let (schema, features, columns) = match dataset.groups() {
        None => {
            let features = json!({"image": image_feature, "label": class_label(dataset.classes())});
            (
                PLAIN,
                features,
                vec![Cells::Bytes(images), no_paths, labels],
            )
        }
        Some(groups) => {
            let features = json!({
                "img": image_feature,
                "fine_label": class_label(dataset.classes()),
                "coarse_label": class_label(&groups.names),
            });
            let coarse = dataset.labels().iter().map(|&label| {
                let group = groups.of_class.get(label as usize)?;
                Some(i64::from(*group))
            });
            let coarse = Cells::Integers(coarse.collect());
            (
                GROUPED,
                features,
                vec![Cells::Bytes(images), no_paths, labels, coarse],
            )
        }
    };
    let metadata = json!({"info": {"features": features}}).to_string();
    write_columns(path, schema, Some(metadata), &columns).map_err(|error| DataError::Io {
        action: "write",
        path: path.to_owned(),
        source: std::io::Error::other(error),
    })
}

/// The cells of one leaf column; `None` is null.
pub(crate) enum Cells {
    Bytes(Vec<Option<Vec<u8>>>),
    Integers(Vec<Option<i64>>),
}

/// Writes a file of one row group with these leaf columns and this value of the key `huggingface`.
pub(crate) fn write_columns(
    path: &Path,
    schema: &str,
    metadata: Option<String>,
    columns: &[Cells],
) -> std::result::Result<(), ParquetError> {
    let pairs = metadata.map(|value| vec![KeyValue::new("huggingface".to_owned(), value)]);
    let properties = WriterProperties::builder()
        .set_key_value_metadata(pairs)
        .build();
    let schema = Arc::new(parse_message_type(schema)?);
    let mut writer = SerializedFileWriter::new(File::create(path)?, schema, Arc::new(properties))?;
    let depths: Vec<i16> = writer
        .schema_descr()
        .columns()
        .iter()
        .map(|leaf| leaf.max_def_level())
        .collect();
    let mut group = writer.next_row_group()?;
    for (cells, depth) in columns.iter().zip(depths) {
        write_cells(&mut group, cells, depth)?;
    }
    group.close()?;
    writer.close()?;
    Ok(())
}

/// Writes the next column, whose non-null cells have definition level `depth`.
fn write_cells(
    group: &mut SerializedRowGroupWriter<'_, File>,
    cells: &Cells,
    depth: i16,
) -> std::result::Result<(), ParquetError> {
    let level = |present: bool| if present { depth } else { depth - 1 };
    let Some(mut column) = group.next_column()? else {
        return Err(ParquetError::General(
            "more columns than the schema has".into(),
        ));
    };
    match cells {
        Cells::Bytes(cells) => {
            let levels: Vec<i16> = cells.iter().map(|cell| level(cell.is_some())).collect();
            let values: Vec<ByteArray> = cells
                .iter()
                .flatten()
                .cloned()
                .map(ByteArray::from)
                .collect();
            column
                .typed::<ByteArrayType>()
                .write_batch(&values, Some(&levels), None)?;
        }
        Cells::Integers(cells) => {
            let levels: Vec<i16> = cells.iter().map(|cell| level(cell.is_some())).collect();
            let values: Vec<i64> = cells.iter().flatten().copied().collect();
            column
                .typed::<Int64Type>()
                .write_batch(&values, Some(&levels), None)?;
        }
    }
    column.close()
}

/// Encodes an image as PNG; `path` is for errors.
fn png(path: &Path, image: &Image) -> Result<Vec<u8>> {
    image.to_png().map_err(|source| DataError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    })
}
