//! Which columns of a Parquet file hold the pictures and the labels, and what the Hub's metadata calls the classes.

use std::path::Path;

use parquet::basic::{ConvertedType, Type};
use parquet::file::metadata::FileMetaData;
use parquet::schema::types::ColumnDescPtr;
use serde_json::Value;

use crate::error::{DataError, Result};
use crate::labels::Labels;

/// The names asked for; those not given are guessed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ColumnNames<'a> {
    pub(crate) image: Option<&'a str>,
    pub(crate) label: Option<&'a str>,
    pub(crate) labels: Labels,
}

/// One leaf column to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    /// Its name at the top level of the schema.
    pub(crate) name: String,
    /// Its place among the leaf columns.
    pub(crate) index: usize,
    /// The definition level of a cell that is not empty.
    pub(crate) max_definition: i16,
    /// Class names, if the metadata has some for this column.
    pub(crate) names: Option<Vec<String>>,
}

/// The columns to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Columns {
    pub(crate) image: Column,
    pub(crate) label: Column,
    /// `coarse_label`, where the label column is the `fine_label` beside it.
    pub(crate) coarse: Option<Column>,
}

impl Columns {
    /// Finds the columns in the schema of the file at `path`, which only errors mention.
    pub(crate) fn find(path: &Path, metadata: &FileMetaData, names: &ColumnNames) -> Result<Self> {
        let schema = Schema::new(path, metadata);
        let image = match names.image {
            Some(name) => schema.named("a column of pictures", &[name], is_image),
            None => schema.named_or_only("a column of pictures", &["img", "image"], is_image),
        }?;
        let integers = "an integer column of labels";
        let label = match (names.label, names.labels) {
            (Some(name), _) => schema.named(integers, &[name], is_integer),
            (None, Labels::Fine) => {
                schema.named_or_only(integers, &["fine_label", "label", "labels"], is_integer)
            }
            (None, Labels::Coarse) => schema.named(integers, &["coarse_label"], is_integer),
        }?;
        let coarse = match label.name.as_str() {
            "fine_label" => schema.named(integers, &["coarse_label"], is_integer).ok(),
            _ => None,
        };
        Ok(Self {
            image,
            label,
            coarse,
        })
    }
}

/// The leaf columns of a file and what its metadata says of them.
struct Schema<'a> {
    path: &'a Path,
    leaves: &'a [ColumnDescPtr],
    features: Option<Value>,
}

impl<'a> Schema<'a> {
    fn new(path: &'a Path, metadata: &'a FileMetaData) -> Self {
        let pairs = metadata.key_value_metadata().into_iter().flatten();
        let features = pairs
            .filter(|pair| pair.key == "huggingface")
            .find_map(|pair| serde_json::from_str(pair.value.as_deref()?).ok());
        Self {
            path,
            leaves: metadata.schema_descr().columns(),
            features,
        }
    }

    /// The first column that `fits` and has one of `names`, in the order of the names.
    fn named(&self, what: &str, names: &[&str], fits: Fits) -> Result<Column> {
        names
            .iter()
            .find_map(|name| self.fitting(fits).find(|column| column.name == *name))
            .ok_or_else(|| self.not_found(format!("{what} called {}", names.join(" or "))))
    }

    /// The same, or else the only column that `fits`.
    fn named_or_only(&self, what: &str, names: &[&str], fits: Fits) -> Result<Column> {
        let mut fitting = self.fitting(fits);
        match (
            self.named(what, names, fits),
            fitting.next(),
            fitting.next(),
        ) {
            (Ok(column), ..) | (Err(_), Some(column), None) => Ok(column),
            (Err(_), ..) => {
                let names = names.join(" or ");
                Err(self.not_found(format!("{what} called {names}, or only one such column")))
            }
        }
    }

    fn fitting(&self, fits: Fits) -> impl Iterator<Item = Column> {
        let fitting = self
            .leaves
            .iter()
            .enumerate()
            .filter(move |(_, leaf)| fits(leaf));
        fitting.map(|(index, leaf)| {
            let name = leaf.path().parts().first().cloned().unwrap_or_default();
            Column {
                names: self
                    .features
                    .as_ref()
                    .and_then(|features| class_names(features, &name)),
                name,
                index,
                max_definition: leaf.max_def_level(),
            }
        })
    }

    fn not_found(&self, expected: String) -> DataError {
        let describe = |leaf: &ColumnDescPtr| format!("{} ({})", leaf.path(), leaf.physical_type());
        DataError::Column {
            path: self.path.to_owned(),
            expected,
            found: self
                .leaves
                .iter()
                .map(describe)
                .collect::<Vec<_>>()
                .join(", "),
        }
    }
}

type Fits = fn(&ColumnDescPtr) -> bool;

/// `name.bytes` of the Hub's `Image` feature, or a plain binary column.
fn is_image(leaf: &ColumnDescPtr) -> bool {
    let place = match leaf.path().parts() {
        [_] => leaf.logical_type_ref().is_none() && leaf.converted_type() == ConvertedType::NONE,
        [_, part] => part == "bytes",
        _ => false,
    };
    place && leaf.physical_type() == Type::BYTE_ARRAY && leaf.max_rep_level() == 0
}

fn is_integer(leaf: &ColumnDescPtr) -> bool {
    let integer = matches!(leaf.physical_type(), Type::INT32 | Type::INT64);
    integer && leaf.path().parts().len() == 1 && leaf.max_rep_level() == 0
}

/// `info.features.<column>.names` of the metadata, which a `ClassLabel` has.
fn class_names(metadata: &Value, column: &str) -> Option<Vec<String>> {
    let names = metadata
        .get("info")?
        .get("features")?
        .get(column)?
        .get("names")?;
    names
        .as_array()?
        .iter()
        .map(|name| name.as_str().map(str::to_owned))
        .collect()
}
