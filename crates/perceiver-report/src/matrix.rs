//! A confusion matrix as a page shows it: a table of few classes, a map of many, and of very many none, since it grows with their square
//! while what was said of images does not.

use image::ExtendedColorType;
use perceiver_data::Groups;
use serde::Serialize;

use crate::confusion::Confusion;
use crate::error::Result;
use crate::pictures::png_address;
use crate::text::{grouped, json_in_page, percent, share};

/// So many classes still have room for their numbers.
const MOST_IN_TABLE: usize = 24;

/// So many still have a pixel each in a map that a page can hold: 4 MB of them.
const MOST_IN_MAP: usize = 1000;

/// The colours of right and of wrong, in light and in dark.
const RIGHT: [u8; 3] = [0x3d, 0x7e, 0xbf];
const WRONG: [u8; 3] = [0xd6, 0x4f, 0x45];

/// What a page shows.
pub(crate) enum Matrix {
    Table(Table),
    Map(Map),
    /// Nothing but how many classes there are: the pairs that come up most have to do.
    LeftOut(String),
}

/// Every number in its cell.
pub(crate) struct Table {
    pub(crate) names: Vec<String>,
    pub(crate) rows: Vec<Row>,
}

/// A right class.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) cells: Vec<Cell>,
}

/// What it was taken for.
pub(crate) struct Cell {
    pub(crate) count: u64,
    pub(crate) right: bool,
    /// From 0 to 1.
    pub(crate) share: String,
    pub(crate) says: String,
}

/// A picture with a pixel a cell, and what its cells say as JSON.
pub(crate) struct Map {
    pub(crate) address: String,
    pub(crate) json: String,
    /// Coarse classes, from top to bottom; none where there are none.
    pub(crate) bands: Vec<Band>,
}

/// A coarse class beside a map.
pub(crate) struct Band {
    pub(crate) name: String,
    pub(crate) classes: usize,
}

/// What `report.js` reads.
#[derive(Serialize)]
struct Counts<'a> {
    classes: &'a [String],
    /// The class in each row and column.
    order: &'a [u32],
    /// Pictures of each class.
    totals: Vec<u64>,
    /// Right class, predicted class, pictures.
    cells: Vec<(u32, u32, u64)>,
}

impl Matrix {
    pub(crate) fn new(
        confusion: &Confusion,
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
    fn new(confusion: &Confusion, classes: &[String]) -> Self {
        let row = |label: u32| {
            let name = &classes[label as usize];
            let cell = |(predicted, taken_for): (u32, &String)| {
                let count = confusion.count(label, predicted);
                let share = share(count, confusion.total(label));
                Cell {
                    count,
                    right: label == predicted,
                    share: format!("{share:.3}"),
                    says: format!("{name} taken for {taken_for}: {count} ({})", percent(share)),
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
    fn new(confusion: &Confusion, classes: &[String], groups: Option<&Groups>) -> Result<Self> {
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
                .map(|class| confusion.total(class))
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

/// The picture: the stronger a pixel, the more of the row's pictures, not in proportion, so that few are seen too.
fn address(confusion: &Confusion, order: &[u32]) -> Result<String> {
    let side = order.len();
    let mut pixels = vec![0; 4 * side * side];
    let mut place = vec![0; side];
    for (at, &class) in order.iter().enumerate() {
        place[class as usize] = at;
    }
    for (label, predicted, count) in confusion.cells() {
        let [red, green, blue] = if label == predicted { RIGHT } else { WRONG };
        let strength = 0.1 + 0.9 * share(count, confusion.total(label)).powf(0.6);
        let at = 4 * (place[label as usize] * side + place[predicted as usize]);
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
    use crate::testing::said;

    fn classes(count: usize) -> Vec<String> {
        (0..count).map(|class| format!("<class {class}>")).collect()
    }

    #[test]
    fn few_classes_have_their_numbers() {
        let confusion = Confusion::of(&[(0, 1), (0, 0), (1, 1)].map(said));
        let Matrix::Table(table) = Matrix::new(&confusion, &classes(2), None).unwrap() else {
            panic!("expected a table")
        };
        let counts = |row: usize| table.rows[row].cells.iter().map(|cell| cell.count);
        assert_eq!(counts(0).collect::<Vec<_>>(), [1, 1]);
        assert_eq!(counts(1).collect::<Vec<_>>(), [0, 1]);
        assert!(table.rows[0].cells[0].right && !table.rows[0].cells[1].right);
    }

    /// A pixel a pair would be 40 GB.
    #[test]
    fn of_very_many_classes_there_is_no_matrix() {
        let confusion = Confusion::of(&[(99_999, 1), (0, 99_999)].map(said));
        let matrix = Matrix::new(&confusion, &classes(100_000), None).unwrap();
        assert!(matches!(matrix, Matrix::LeftOut(count) if count == "100,000"));
        let most = Matrix::new(&confusion_of_few(), &classes(MOST_IN_MAP), None).unwrap();
        assert!(matches!(most, Matrix::Map(_)));
    }

    fn confusion_of_few() -> Confusion {
        Confusion::of(&[(0, 1), (999, 0)].map(said))
    }

    #[test]
    fn many_classes_stand_by_group() {
        let groups = Groups {
            names: vec!["odd".to_string(), "even".to_string(), "none".to_string()],
            of_class: (0..30).map(|class| (class + 1) % 2).collect(),
        };
        let confusion = Confusion::of(&[(0, 1), (0, 0)].map(said));
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
