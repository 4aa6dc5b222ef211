//! The confusion matrix on a page: a table for few classes, an image for many, and nothing for very
//! many, since its size grows with their square while that of the predictions does not.

use image::ExtendedColorType;
use perceiver_data::Groups;
use perceiver_train::ConfusionMatrix;
use serde::Serialize;

use crate::data_url::png_address;
use crate::error::Result;
use crate::text::{grouped, json_in_page, percent, share};

/// The maximum number of classes for a table with numbers.
const MOST_IN_TABLE: usize = 24;

/// The maximum number of classes for an image with a pixel per cell, which takes 4 MB.
const MOST_IN_MAP: usize = 1000;

/// The colors of correct and wrong predictions, for the light and the dark theme.
const RIGHT: [u8; 3] = [0x3d, 0x7e, 0xbf];
const WRONG: [u8; 3] = [0xd6, 0x4f, 0x45];

/// The form in which a page shows the matrix.
pub(crate) enum Matrix {
    Table(Table),
    Map(Map),
    /// Only the formatted number of classes; the list of confused pairs has to suffice.
    LeftOut(String),
}

/// A table with a number in every cell.
pub(crate) struct Table {
    pub(crate) names: Vec<String>,
    pub(crate) rows: Vec<Row>,
}

/// A row: a true class.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) cells: Vec<Cell>,
}

/// A cell: a predicted class.
pub(crate) struct Cell {
    pub(crate) count: u64,
    pub(crate) right: bool,
    /// The share of the row's images, from 0 to 1.
    pub(crate) share: String,
    /// The same in percent.
    pub(crate) percent: String,
    /// The identifier of the cell: `LABEL-PREDICTED`, in numbers of classes.
    pub(crate) key: String,
    pub(crate) says: String,
}

/// An image with one pixel per cell, and the contents of the cells as JSON.
pub(crate) struct Map {
    pub(crate) address: String,
    pub(crate) json: String,
    /// The coarse classes from top to bottom; empty if the data set has none.
    pub(crate) bands: Vec<Band>,
}

/// A coarse class beside the image.
pub(crate) struct Band {
    pub(crate) name: String,
    pub(crate) classes: usize,
}

/// The data for `page.js`.
#[derive(Serialize)]
struct Counts<'a> {
    classes: &'a [String],
    /// The class of each row and column.
    order: &'a [u32],
    /// The number of images per class.
    totals: Vec<u64>,
    /// True class, predicted class, number of images.
    cells: Vec<(u32, u32, u64)>,
}

impl Matrix {
    pub(crate) fn new(
        confusion: &ConfusionMatrix,
        classes: &[String],
        groups: Option<&Groups>,
    ) -> Result<Self> {
        if classes.len() <= MOST_IN_TABLE {
            return Ok(Self::Table(Table::new(confusion, classes)));
        }
        if classes.len() > MOST_IN_MAP {
            return Ok(Self::LeftOut(grouped(classes.len())));
        }
        Ok(Self::Map(Map::new(confusion, classes, groups)?))
    }
}

impl Table {
    fn new(confusion: &ConfusionMatrix, classes: &[String]) -> Self {
        let row = |label: u32| {
            let name = &classes[label as usize];
            let cell = |(predicted, taken_for): (u32, &String)| {
                let count = confusion.count(label, predicted);
                let share = share(count, confusion.support(label));
                Cell {
                    count,
                    right: label == predicted,
                    share: format!("{share:.3}"),
                    percent: format!("{:.0}%", 100.0 * share),
                    key: format!("{label}-{predicted}"),
                    says: format!(
                        "{name} predicted as {taken_for}: {count} ({})",
                        percent(share)
                    ),
                }
            };
            Row {
                name: name.clone(),
                cells: (0..).zip(classes).map(cell).collect(),
            }
        };
        Self {
            names: classes.to_vec(),
            rows: (0..classes.len() as u32).map(row).collect(),
        }
    }
}

impl Map {
    fn new(
        confusion: &ConfusionMatrix,
        classes: &[String],
        groups: Option<&Groups>,
    ) -> Result<Self> {
        let mut order: Vec<u32> = (0..classes.len() as u32).collect();
        let mut bands = Vec::new();
        if let Some(groups) = groups {
            order.sort_by_key(|&class| groups.of_class[class as usize]); // stable: classes keep their order
            let names = groups.names.iter().enumerate();
            let bands_of_names = names.map(|(group, name)| Band {
                name: name.clone(),
                classes: groups
                    .of_class
                    .iter()
                    .filter(|&&of| of as usize == group)
                    .count(),
            });
            bands = bands_of_names.filter(|band| band.classes > 0).collect();
        }
        let counts = Counts {
            classes,
            order: &order,
            totals: (0..classes.len() as u32)
                .map(|class| confusion.support(class))
                .collect(),
            cells: confusion.cells().collect(),
        };
        let json = json_in_page(&counts).map_err(std::io::Error::from);
        Ok(Self {
            address: address(confusion, &order)?,
            json: json.map_err(image::ImageError::IoError)?,
            bands,
        })
    }
}

/// Renders the image. The opacity of a pixel grows with its share of the row's images, but
/// sublinearly, so that small counts stay visible.
fn address(confusion: &ConfusionMatrix, order: &[u32]) -> Result<String> {
    let side = order.len();
    let mut pixels = vec![0; 4 * side * side];
    let mut position = vec![0; side];
    for (at, &class) in order.iter().enumerate() {
        position[class as usize] = at;
    }
    for (label, predicted, count) in confusion.cells() {
        let [red, green, blue] = if label == predicted { RIGHT } else { WRONG };
        let strength = 0.3 + 0.7 * share(count, confusion.support(label)).powf(0.6);
        let at = 4 * (position[label as usize] * side + position[predicted as usize]);
        pixels[at..at + 4].copy_from_slice(&[red, green, blue, (255.0 * strength).round() as u8]);
    }
    png_address(
        &pixels,
        (side as u32, side as u32),
        ExtendedColorType::Rgba8,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::prediction;

    fn classes(count: usize) -> Vec<String> {
        (0..count).map(|class| format!("<class {class}>")).collect()
    }

    #[test]
    fn small_matrices_show_counts() {
        let confusion = ConfusionMatrix::new(&[(0, 1), (0, 0), (1, 1)].map(prediction));
        let Matrix::Table(table) = Matrix::new(&confusion, &classes(2), None).unwrap() else {
            panic!("expected a table")
        };
        let counts = |row: usize| table.rows[row].cells.iter().map(|cell| cell.count);
        assert_eq!(counts(0).collect::<Vec<_>>(), [1, 1]);
        assert_eq!(counts(1).collect::<Vec<_>>(), [0, 1]);
        assert!(table.rows[0].cells[0].right && !table.rows[0].cells[1].right);
    }

    /// A pixel per pair would take 40 GB.
    #[test]
    fn very_large_matrices_are_omitted() {
        let confusion = ConfusionMatrix::new(&[(99_999, 1), (0, 99_999)].map(prediction));
        let matrix = Matrix::new(&confusion, &classes(100_000), None).unwrap();
        assert!(matches!(matrix, Matrix::LeftOut(count) if count == "100,000"));
        let most = Matrix::new(&confusion_of_few(), &classes(MOST_IN_MAP), None).unwrap();
        assert!(matches!(most, Matrix::Map(_)));
    }

    fn confusion_of_few() -> ConfusionMatrix {
        ConfusionMatrix::new(&[(0, 1), (999, 0)].map(prediction))
    }

    #[test]
    fn large_matrices_are_sorted_by_group() {
        let groups = Groups {
            names: vec!["odd".to_string(), "even".to_string(), "none".to_string()],
            of_class: (0..30).map(|class| (class + 1) % 2).collect(),
        };
        let confusion = ConfusionMatrix::new(&[(0, 1), (0, 0)].map(prediction));
        let Matrix::Map(map) = Matrix::new(&confusion, &classes(30), Some(&groups)).unwrap() else {
            panic!("expected a map")
        };
        let bands: Vec<_> = map
            .bands
            .iter()
            .map(|band| (band.name.as_str(), band.classes))
            .collect();
        assert_eq!(bands, [("odd", 15), ("even", 15)]);
        assert!(!map.json.contains('<'));
        let json: serde_json::Value = serde_json::from_str(&map.json).unwrap();
        assert_eq!(json["order"][0], 1);
        assert_eq!(json["cells"], serde_json::json!([[0, 0, 1], [0, 1, 1]]));
        assert_eq!(json["totals"][0], 2);
    }
}
