//! What the parts of a data set are called in the names of files and folders.

/// What stands in paths for each part of a data set, in any mixture of upper and lower case.
pub(crate) const TRAIN: &[&str] = &["train", "training"];
pub(crate) const TEST: &[&str] = &["test", "testing"];
pub(crate) const VALIDATION: &[&str] = &["validation", "valid", "val", "dev"];

/// The part that a word stands for, as one of the three constants.
pub(crate) fn part_called(word: &str) -> Option<&'static [&'static str]> {
    [TRAIN, TEST, VALIDATION]
        .into_iter()
        .find(|words| words.iter().any(|part| part.eq_ignore_ascii_case(word)))
}

/// The part that the name of a file without its extension begins with, as in `train-00000-of-00002`.
pub(crate) fn part_of_stem(stem: &str) -> Option<&'static [&'static str]> {
    part_called(stem.split(['-', '_', '.']).next().unwrap_or(stem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_known_in_any_case() {
        for (word, part) in [
            ("Train", Some(TRAIN)),
            ("TESTING", Some(TEST)),
            ("Valid", Some(VALIDATION)),
            ("dev", Some(VALIDATION)),
            ("trains", None),
        ] {
            assert_eq!(part_called(word), part, "{word}");
        }
        assert_eq!(part_of_stem("Train-00000-of-00002"), Some(TRAIN));
    }
}
