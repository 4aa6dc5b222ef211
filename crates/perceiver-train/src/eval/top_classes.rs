//! Top-k classes: the most probable classes of an image, by name.

use serde::Serialize;

/// A class and its probability.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ClassProbability<'a> {
    /// The name of the class.
    pub class: &'a str,
    /// Its probability, from 0 to 1.
    pub probability: f32,
}

/// Returns the `k` most probable classes in descending order, the first of equal ones first; all of
/// them if there are fewer.
///
/// ```
/// use perceiver_train::top_classes;
///
/// let classes = ["ant", "bee", "cat"].map(String::from);
/// let top = top_classes(&classes, &[0.25, 0.0, 0.75], 2);
/// assert_eq!(top.map(|top| top.class).collect::<Vec<_>>(), ["cat", "ant"]);
/// ```
pub fn top_classes<'a>(
    classes: &'a [String],
    probabilities: &[f32],
    k: usize,
) -> impl Iterator<Item = ClassProbability<'a>> + use<'a> {
    let named = classes.iter().zip(probabilities);
    let mut all: Vec<ClassProbability> = named
        .map(|(class, &probability)| ClassProbability { class, probability })
        .collect();
    all.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    all.into_iter().take(k)
}
