//! Names of splits in files and folders: train, validation, test and their synonyms.

/// Words for each split in paths, matched case-insensitively.
pub(crate) const TRAIN: &[&str] = &["train", "training"];
pub(crate) const TEST: &[&str] = &["test", "testing"];
pub(crate) const VALIDATION: &[&str] = &["validation", "valid", "val", "dev"];

/// Returns the split that a word names, as one of the three constants.
pub(crate) fn split_named(word: &str) -> Option<&'static [&'static str]> {
    [TRAIN, TEST, VALIDATION]
        .into_iter()
        .find(|words| words.iter().any(|part| part.eq_ignore_ascii_case(word)))
}

/// Returns the split that a file stem begins with, as in `train-00000-of-00002`.
pub(crate) fn split_of_stem(stem: &str) -> Option<&'static [&'static str]> {
    split_named(stem.split(['-', '_', '.']).next().unwrap_or(stem))
}

/// Returns the only split that the words of a file stem name, in any case and with an optional
/// number at the end, as in `imagenet1k-train-0000` or `Test01`.
pub(crate) fn split_within_stem(stem: &str) -> Option<&'static [&'static str]> {
    let words = stem.split(|c: char| !c.is_alphanumeric());
    let mut parts = words.filter_map(|word| {
        let word = word.trim_end_matches(|c: char| c.is_ascii_digit());
        split_named(&word.to_lowercase())
    });
    let first = parts.next()?;
    parts.all(|part| part == first).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_names_are_case_insensitive() {
        for (word, part) in [
            ("Train", Some(TRAIN)),
            ("TESTING", Some(TEST)),
            ("Valid", Some(VALIDATION)),
            ("dev", Some(VALIDATION)),
            ("trains", None),
        ] {
            assert_eq!(split_named(word), part, "{word}");
        }
        assert_eq!(split_of_stem("Train-00000-of-00002"), Some(TRAIN));
    }

    #[test]
    fn splits_are_recognized_within_file_names() {
        for (stem, part) in [
            ("imagenet1k-train-0000", Some(TRAIN)),
            ("Test01", Some(TEST)),
            ("my set.validation 3", Some(VALIDATION)),
            ("train-training-1", Some(TRAIN)),
            ("train-and-test", None),
            ("constraints-0", None),
            ("", None),
        ] {
            assert_eq!(split_within_stem(stem), part, "{stem}");
        }
    }
}
