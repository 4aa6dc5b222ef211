//! The details of single classes: confusions, worst and best images.
//!
//! Their number is bounded, so that a page stays small for any number of classes and images.

use perceiver_train::{ConfusionMatrix, Prediction};

use crate::error::Result;
use crate::page::class_table::ClassRow;
use crate::page::gallery::{Shown, Test};

/// The maximum number of classes with details, from the lowest accuracy up.
const MOST_CLASSES: usize = 200;

/// The maximum number of images in all details, and of each class.
const MOST_IMAGES: usize = 300;
const MOST_OF_CLASS: usize = 12;

/// The maximum size of all images in the details, in bytes of their `data:` URLs.
const MOST_BYTES: usize = 1_500_000;

/// The maximum number of classes in each list of confusions.
const MOST_CONFUSED: usize = 5;

/// The details of a class.
pub(crate) struct ClassDetails {
    pub(crate) class: u32,
    pub(crate) name: String,
    pub(crate) summary: String,
    /// The classes that its images are predicted as, with counts.
    pub(crate) predicted_as: String,
    /// The classes whose images are predicted as this one, with counts.
    pub(crate) taken_from: String,
    /// Wrong predictions, the most confident first.
    pub(crate) worst: Vec<Shown>,
    /// Correct predictions, the most confident first.
    pub(crate) best: Vec<Shown>,
}

/// Returns the details of the first of `rows`; without images if there are none.
pub(crate) fn class_details(
    rows: &[ClassRow],
    predictions: &[Prediction],
    confusion: &ConfusionMatrix,
    test: Option<&Test<'_>>,
    classes: &[String],
) -> Result<Vec<ClassDetails>> {
    let mut of_class: Vec<Vec<&Prediction>> = vec![Vec::new(); classes.len()];
    for prediction in predictions {
        of_class[prediction.label as usize].push(prediction);
    }
    for of_class in &mut of_class {
        of_class.sort_by(|a, b| b.probability.total_cmp(&a.probability)); // stable
    }
    let (mut predicted_as, mut taken_from) = (
        vec![Vec::new(); classes.len()],
        vec![Vec::new(); classes.len()],
    );
    for pair in confusion.confused_pairs() {
        predicted_as[pair.label as usize].push((pair.predicted, pair.count));
        taken_from[pair.predicted as usize].push((pair.label, pair.count));
    }
    let mut room = Room {
        images: MOST_IMAGES,
        bytes: MOST_BYTES,
    };
    let each = (MOST_IMAGES / rows.len().max(1)).clamp(1, MOST_OF_CLASS);
    let shown = rows.iter().take(MOST_CLASSES);
    let details = shown.map(|row| {
        let own = &of_class[row.class as usize];
        let worst = own.iter().filter(|prediction| !prediction.is_right());
        let best = own.iter().filter(|prediction| prediction.is_right());
        let worst: Vec<_> = worst.take((2 * each).div_ceil(3)).collect();
        let best = best.take(each - worst.len().min(each)).collect::<Vec<_>>();
        let mut images = |chosen: Vec<&&Prediction>| -> Result<Vec<Shown>> {
            let Some(test) = test else {
                return Ok(Vec::new());
            };
            let images = chosen.into_iter();
            images
                .map(|prediction| room.shown(prediction, test, classes))
                .collect()
        };
        Ok(ClassDetails {
            class: row.class,
            name: row.name.clone(),
            summary: format!(
                "precision {}, recall {}, F1 {}; {} of {} images correct",
                row.precision_percent,
                row.recall_percent,
                row.f1_percent,
                confusion.count(row.class, row.class),
                row.support
            ),
            predicted_as: counts(&predicted_as[row.class as usize], classes),
            taken_from: counts(&taken_from[row.class as usize], classes),
            worst: images(worst)?,
            best: images(best)?,
        })
    });
    details.collect()
}

/// Formats the most frequent of some classes, such as `maple (7), oak (2)`.
fn counts(pairs: &[(u32, u64)], classes: &[String]) -> String {
    let mut texts: Vec<String> = pairs
        .iter()
        .take(MOST_CONFUSED)
        .map(|&(class, count)| format!("{} ({count})", classes[class as usize]))
        .collect();
    if pairs.len() > MOST_CONFUSED {
        texts.push(format!("{} more", pairs.len() - MOST_CONFUSED));
    }
    texts.join(", ")
}

/// The room left for images.
struct Room {
    images: usize,
    bytes: usize,
}

impl Room {
    /// Returns a prediction with its image, or with its name only once there is no more room.
    fn shown(
        &mut self,
        prediction: &Prediction,
        test: &Test<'_>,
        classes: &[String],
    ) -> Result<Shown> {
        if self.images == 0 || self.bytes == 0 {
            return Ok(Shown::name_only(prediction, test, classes));
        }
        let shown = Shown::new(prediction, test, classes)?;
        self.images -= 1;
        let size = shown.address.as_ref().map_or(0, String::len);
        self.bytes = self.bytes.saturating_sub(size);
        Ok(shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_of_confusions_are_cut() {
        let classes: Vec<String> = (0..9).map(|class| format!("c{class}")).collect();
        let pairs: Vec<(u32, u64)> = (1..9).map(|class| (class, 3)).collect();
        assert_eq!(
            counts(&pairs, &classes),
            "c1 (3), c2 (3), c3 (3), c4 (3), c5 (3), 3 more"
        );
        assert_eq!(counts(&[], &classes), "");
    }
}
