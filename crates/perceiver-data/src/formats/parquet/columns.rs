//! Finds the image and label columns of a Parquet file, and its class names.

use std::path::Path;

use parquet::basic::{ConvertedType, LogicalType, Type};
use parquet::file::metadata::FileMetaData;
use parquet::schema::types::ColumnDescPtr;
use serde_json::Value;

use crate::dataset::class_names::require_distinct;
use crate::dataset::labels::Labels;
use crate::error::{DataError, Result};

/// The requested column names; `None` is guessed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ColumnNames<'a> {
    pub(crate) image: Option<&'a str>,
    pub(crate) label: Option<&'a str>,
    pub(crate) labels: Labels,
}

/// A leaf column to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    /// Its name at the top level of the schema.
    pub(crate) name: String,
    /// Its index among the leaf columns.
    pub(crate) index: usize,
    /// The definition level of a non-null cell.
    pub(crate) max_definition: i16,
    /// The class names in the metadata of this column.
    pub(crate) names: Option<Vec<String>>,
    /// Whether its cells are texts.
    pub(crate) is_text: bool,
}

/// The columns to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Columns {
    pub(crate) image: Column,
    pub(crate) label: Column,
    /// `coarse_label`, if the label column is `fine_label`.
    pub(crate) coarse: Option<Column>,
}

impl Columns {
    /// Finds the columns in the schema of the file at `path`, which only errors mention.
    pub(crate) fn find(path: &Path, metadata: &FileMetaData, names: &ColumnNames) -> Result<Self> {
        let schema = Schema::new(path, metadata);
        let image = match names.image {
            Some(name) => schema.named("an image column", &[name], is_image),
            None => schema.named_or_only("an image column", &["img", "image"], is_image),
        }?;
        let what = "a label column (integers or text)";
        let label = match (names.label, names.labels) {
            (Some(name), _) => schema.named(what, &[name], is_label),
            (None, Labels::Fine) => schema.label(what),
            (None, Labels::Coarse) => schema.named(what, &["coarse_label"], is_label),
        }?;
        let coarse = match label.name.as_str() {
            "fine_label" => schema.named(what, &["coarse_label"], is_integer).ok(),
            _ => None,
        };
        for column in [Some(&label), coarse.as_ref()].into_iter().flatten() {
            if let Some(names) = &column.names {
                require_distinct(path, names)?;
            }
        }
        Ok(Self {
            image,
            label,
            coarse,
        })
    }
}

/// Names of label columns, in order of preference.
const LABELS: [&str; 3] = ["fine_label", "label", "labels"];
/// Further names of label columns, tried if the metadata names the classes of no other column.
const OTHER_LABELS: [&str; 7] = [
    "class",
    "class_label",
    "class_name",
    "target",
    "targets",
    "category",
    "y",
];

/// The leaf columns of a file with their metadata.
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

    /// Returns the first column that `fits` and has one of `names`, in the order of the names.
    fn named(&self, what: &str, names: &[&str], fits: Fits) -> Result<Column> {
        names
            .iter()
            .find_map(|name| self.fitting(fits).find(|column| column.name == *name))
            .ok_or_else(|| self.not_found(format!("{what} called {}", names.join(" or "))))
    }

    /// Returns the same, or otherwise the only column that `fits`.
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

    /// Returns the label column, by its name or its metadata. No other column is guessed: the only
    /// integer column may be anything, such as ids.
    fn label(&self, what: &str) -> Result<Column> {
        let by_name = |names: &[&str]| self.named(what, names, is_label).ok();
        let listed = || {
            let mut listed = self
                .fitting(is_integer)
                .filter(|column| column.names.is_some());
            listed.next().filter(|_| listed.next().is_none())
        };
        let column = by_name(&LABELS)
            .or_else(listed)
            .or_else(|| by_name(&OTHER_LABELS));
        column.ok_or_else(|| {
            let names = [&LABELS[..], &OTHER_LABELS].concat().join(", ");
            self.not_found(format!(
                "{what} called {names}, or one whose class names are in the metadata; choose another with \
                 hf:USER/NAME::COLUMN or shards:DIR,label=COLUMN"
            ))
        })
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
                is_text: is_text(leaf),
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

/// Whether a leaf is `name.bytes` of the Hub's `Image` feature, or a plain binary column.
fn is_image(leaf: &ColumnDescPtr) -> bool {
    let matches_path = match leaf.path().parts() {
        [_] => leaf.logical_type_ref().is_none() && leaf.converted_type() == ConvertedType::NONE,
        [_, part] => part == "bytes",
        _ => false,
    };
    matches_path && leaf.physical_type() == Type::BYTE_ARRAY && leaf.max_rep_level() == 0
}

/// Whether a leaf is a top-level text column.
fn is_text(leaf: &ColumnDescPtr) -> bool {
    let text = leaf.logical_type_ref() == Some(&LogicalType::String)
        || leaf.converted_type() == ConvertedType::UTF8;
    let is_top_level = leaf.path().parts().len() == 1 && leaf.max_rep_level() == 0;
    text && is_top_level && leaf.physical_type() == Type::BYTE_ARRAY
}

fn is_label(leaf: &ColumnDescPtr) -> bool {
    is_integer(leaf) || is_text(leaf)
}

fn is_integer(leaf: &ColumnDescPtr) -> bool {
    let integer = matches!(leaf.physical_type(), Type::INT32 | Type::INT64);
    integer && leaf.path().parts().len() == 1 && leaf.max_rep_level() == 0
}

/// Returns `info.features.<column>.names` of the metadata, present for a `ClassLabel`.
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
