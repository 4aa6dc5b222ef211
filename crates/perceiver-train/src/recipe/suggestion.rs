//! Suggestions for misspelled names.

/// The minimum similarity of two names, from 0 to 1.
const ALIKE: f64 = 0.82;

/// Returns the candidate that `name` most likely stands for, if any is similar: a misspelling, a
/// part, its initials, or a dotted name with the same last part.
///
/// ```
/// use perceiver_train::nearest;
///
/// let fields = ["training.learning_rate", "training.batch_size", "model.num_iterations"];
/// assert_eq!(nearest("training.lr", fields), Some("training.learning_rate"));
/// assert_eq!(nearest("num_iterations", fields), Some("model.num_iterations"));
/// assert_eq!(nearest("training.batchsize", fields), Some("training.batch_size"));
/// assert_eq!(nearest("training.zebra", fields), None);
/// ```
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut best: Option<(f64, &str)> = None;
    for candidate in candidates {
        let likeness = likeness(name, candidate);
        if likeness >= ALIKE && best.is_none_or(|(most, _)| likeness > most) {
            best = Some((likeness, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Splits a dotted name into its last part and the rest.
fn parts(name: &str) -> (&str, &str) {
    let (above, last) = name.rsplit_once('.').unwrap_or(("", name));
    (last, above)
}

fn likeness(name: &str, candidate: &str) -> f64 {
    let ((last, above), (other, other_above)) = (parts(name), parts(candidate));
    let same_table = if above == other_above { 0.02 } else { 0.0 };
    let (last, other) = (last.to_lowercase(), other.to_lowercase());
    let initials: String = other
        .split(['_', '-'])
        .filter_map(|word| word.chars().next())
        .collect();
    let likeness = if last == other {
        1.0
    } else if initials.len() > 1 && initials == last {
        0.95
    } else if last.len() > 2 && (other.starts_with(&last) || last.starts_with(&other)) {
        0.93
    } else if last.len() > 2 && other.contains(&last) {
        0.9
    } else {
        strsim::jaro_winkler(&last, &other)
    };
    likeness + same_table
}
