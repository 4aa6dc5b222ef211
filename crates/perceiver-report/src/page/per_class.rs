//! Accuracy per class and per coarse group.

use perceiver_data::Groups;
use perceiver_train::{ConfusionMatrix, Prediction, TOP_K};

/// The results of a class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassFigures {
    /// The class.
    pub class: u32,
    /// The number of its images.
    pub images: u64,
    /// The number of correct predictions.
    pub right: u64,
    /// The number of images whose class is among the top 5.
    pub in_top5: u64,
    /// The most frequent wrong prediction and its count, if any.
    pub taken_for: Option<(u32, u64)>,
}

/// The results of a group of classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupFigures {
    /// The group.
    pub group: u32,
    /// The number of its images.
    pub images: u64,
    /// The number of correct predictions.
    pub right: u64,
    /// The number of images predicted as any class of the group.
    pub in_group: u64,
}

/// Computes the results of every class that has images, in order.
pub fn per_class(predictions: &[Prediction], classes: usize) -> Vec<ClassFigures> {
    let mut figures: Vec<ClassFigures> = (0..classes as u32)
        .map(|class| ClassFigures {
            class,
            ..ClassFigures::default()
        })
        .collect();
    for prediction in predictions {
        let figures = &mut figures[prediction.label as usize];
        figures.images += 1;
        figures.right += u64::from(prediction.is_right());
        figures.in_top5 += u64::from(prediction.label_rank as usize <= TOP_K);
    }
    for pair in ConfusionMatrix::new(predictions).confused_pairs() {
        let taken_for = &mut figures[pair.label as usize].taken_for;
        taken_for.get_or_insert((pair.predicted, pair.count));
    }
    figures.retain(|figures| figures.images > 0);
    figures
}

/// Computes the results of every group that has images, in order. `groups` are those of the
/// predictions' classes.
pub fn per_group(predictions: &[Prediction], groups: &Groups) -> Vec<GroupFigures> {
    let mut figures: Vec<GroupFigures> = (0..groups.names.len() as u32)
        .map(|group| GroupFigures {
            group,
            ..GroupFigures::default()
        })
        .collect();
    for prediction in predictions {
        let [group, predicted] =
            [prediction.label, prediction.predicted].map(|class| groups.of_class[class as usize]);
        let figures = &mut figures[group as usize];
        figures.images += 1;
        figures.right += u64::from(prediction.is_right());
        figures.in_group += u64::from(group == predicted);
    }
    figures.retain(|figures| figures.images > 0);
    figures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::prediction;

    #[test]
    fn classes_list_their_most_frequent_confusion() {
        let predictions = [(0, 0), (0, 2), (0, 2), (0, 1), (2, 2)].map(prediction);
        let figures = per_class(&predictions, 3);
        let classes: Vec<u32> = figures.iter().map(|figures| figures.class).collect();
        assert_eq!(classes, [0, 2], "class 1 has no image");
        assert_eq!((figures[0].images, figures[0].right), (4, 1));
        assert_eq!(figures[0].in_top5, 4);
        assert_eq!(figures[0].taken_for, Some((2, 2)));
        assert_eq!(figures[1].taken_for, None);
    }

    #[test]
    fn errors_within_the_group_are_correct_for_the_group() {
        let groups = Groups {
            names: vec!["a".to_string(), "b".to_string()],
            of_class: vec![0, 0, 1],
        };
        let figures = per_group(&[(0, 1), (0, 0), (1, 2)].map(prediction), &groups);
        let [only] = figures[..] else {
            panic!("{figures:?}")
        };
        assert_eq!((only.images, only.right, only.in_group), (3, 1, 2));
    }
}
