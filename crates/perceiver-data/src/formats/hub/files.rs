//! Finds the Parquet files of a split by their paths.
//!
//! The Hub has a few layouts: `data/train-00000-of-00002.parquet`,
//! `cifar100/test-00000-of-00001.parquet` (with the configuration's directory), and
//! `plain_text/train/0000.parquet` in the branch that the Hub converts itself.

use std::collections::BTreeSet;

use crate::dataset::Split;
use crate::dataset::splits::{TEST, TRAIN, VALIDATION, split_named, split_of_stem};

/// A parsed path.
#[derive(Debug, PartialEq, Eq)]
struct Parts<'a> {
    config: String,
    part: &'static [&'static str],
    /// The number of shards stated in the name: `-of-00002`.
    shards: Option<usize>,
    path: &'a str,
}

/// Returns the files of `split` among `paths`, in order. Without test files, the validation files
/// are the test split and there is no validation split.
///
/// # Errors
/// A description of the files found, when the split has no file, a shard is missing, or several
/// configurations exist and `config` names none of them.
pub(crate) fn files_of_split(
    paths: &[String],
    split: Split,
    config: Option<&str>,
) -> Result<Vec<String>, String> {
    let files: Vec<Parts> = paths.iter().filter_map(|path| Parts::of(path)).collect();
    let configs: BTreeSet<&str> = files.iter().map(|file| file.config.as_str()).collect();
    let listed = || configs.iter().copied().collect::<Vec<_>>().join(", ");
    let config = match (config, configs.first()) {
        (Some(config), _) if configs.contains(config) => config,
        (Some(config), _) => return Err(format!("no configuration {config}, only [{}]", listed())),
        (None, Some(&only)) if configs.len() == 1 => only,
        (None, _) if configs.contains("default") => "default",
        (None, None) => return Err("no Parquet file of a split such as train or test".into()),
        (None, Some(_)) => return Err(format!("several configurations, [{}]", listed())),
    };

    let part = |wanted: &'static [&'static str]| -> Vec<&Parts> {
        let here = files.iter().filter(|file| file.config == config);
        here.filter(|file| file.part == wanted).collect()
    };
    let mut chosen = match split {
        Split::Train => part(TRAIN),
        Split::Test if part(TEST).is_empty() => part(VALIDATION),
        Split::Test => part(TEST),
        Split::Validation if part(TEST).is_empty() => Vec::new(),
        Split::Validation => part(VALIDATION),
    };
    let Some(first) = chosen.first() else {
        let wanted = match split {
            Split::Train => "train",
            Split::Test => "test or validation",
            Split::Validation => return Ok(Vec::new()),
        };
        return Err(format!(
            "no Parquet file of a {wanted} split, only {}",
            paths.join(", ")
        ));
    };
    if let Some(shards) = first.shards.filter(|&shards| shards != chosen.len()) {
        return Err(format!(
            "{} of {shards} files of the split, such as {}",
            chosen.len(),
            first.path
        ));
    }
    chosen.sort_by_key(|file| file.path);
    Ok(chosen
        .into_iter()
        .map(|file| file.path.to_owned())
        .collect())
}

/// Returns the split that a file belongs to, if any.
pub(crate) fn split_of_path(path: &str) -> Option<&'static [&'static str]> {
    Some(Parts::of(path)?.part)
}

impl<'a> Parts<'a> {
    fn of(path: &'a str) -> Option<Self> {
        // The path is appended to the cache directory, so it must not lead out of it.
        let is_safe = |part: &str| {
            !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', ':'])
        };
        if !path.split('/').all(is_safe) {
            return None;
        }
        let stem = path.strip_suffix(".parquet")?;
        let (directory, stem) = stem.rsplit_once('/').unwrap_or(("", stem));
        let mut directories: Vec<&str> = directory
            .split('/')
            .filter(|part| !part.is_empty())
            .collect();
        let part = match (split_of_stem(stem), directories.last()) {
            (Some(part), _) => part,
            (None, Some(last)) => {
                let part = split_named(last.strip_prefix("partial-").unwrap_or(last))?;
                directories.pop();
                part
            }
            (None, None) => return None,
        };
        directories.retain(|&directory| directory != "data");
        let shards = stem
            .rsplit_once("-of-")
            .and_then(|(_, count)| count.parse().ok());
        Some(Self {
            config: if directories.is_empty() {
                "default".into()
            } else {
                directories.join("/")
            },
            part,
            shards,
            path,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn files(paths: &[&str], split: Split, config: Option<&str>) -> Result<Vec<String>, String> {
        let paths: Vec<String> = paths.iter().map(|&path| path.to_owned()).collect();
        files_of_split(&paths, split, config)
    }

    #[test]
    fn file_layouts_of_the_hub_are_recognized() {
        let layouts = [
            (
                "cifar100/train-00000-of-00001.parquet",
                "cifar100/test-00000-of-00001.parquet",
            ),
            (
                "data/train-00000-of-00001-0a1b.parquet",
                "data/test-00000-of-00001-2c3d.parquet",
            ),
            (
                "plain_text/train/0000.parquet",
                "plain_text/test/0000.parquet",
            ),
            (
                "default/partial-train/0000.parquet",
                "default/test/0000.parquet",
            ),
            ("train.parquet", "test.parquet"),
            ("train.parquet", "valid.parquet"),
        ];
        for (train, test) in layouts {
            let all = ["README.md", test, train];
            assert_eq!(files(&all, Split::Train, None).unwrap(), [train]);
            assert_eq!(files(&all, Split::Test, None).unwrap(), [test]);
        }
    }

    #[test]
    fn shards_are_ordered_and_complete() {
        let all = [
            "data/train-00001-of-00002.parquet",
            "data/train-00000-of-00002.parquet",
        ];
        assert_eq!(files(&all, Split::Train, None).unwrap(), [all[1], all[0]]);
        let error = files(&all[..1], Split::Train, None).unwrap_err();
        assert!(error.starts_with("1 of 2 files of the split"), "{error}");
    }

    #[test]
    fn a_test_split_takes_precedence_over_validation() {
        let all = [
            "data/validation-0.parquet",
            "data/test-0.parquet",
            "data/train-0.parquet",
        ];
        assert_eq!(files(&all, Split::Test, None).unwrap(), [all[1]]);
        let validation = |all: &[&str]| files(all, Split::Validation, None).unwrap();
        assert_eq!(validation(&all), [all[0]]);
        assert!(validation(&all[1..]).is_empty());
        // Validation is then the test split.
        let untested = ["train.parquet", "valid.parquet"];
        assert!(validation(&untested).is_empty());
        let error = files(&all[2..], Split::Test, None).unwrap_err();
        assert!(
            error.starts_with("no Parquet file of a test or validation split"),
            "{error}"
        );
    }

    #[test]
    fn several_configurations_require_a_choice() {
        let all = ["small/train-0.parquet", "large/train-0.parquet"];
        let error = files(&all, Split::Train, None).unwrap_err();
        assert_eq!(error, "several configurations, [large, small]");
        assert_eq!(files(&all, Split::Train, Some("small")).unwrap(), [all[0]]);
        assert!(files(&all, Split::Train, Some("tiny")).is_err());
        let with_default = ["data/train-0.parquet", all[0]];
        assert_eq!(
            files(&with_default, Split::Train, None).unwrap(),
            [with_default[0]]
        );
    }

    #[test]
    fn paths_outside_the_repository_are_ignored() {
        for path in [
            "../train-0.parquet",
            "/train-0.parquet",
            "a/../train.parquet",
            "c:\\train.parquet",
        ] {
            assert!(files(&[path], Split::Train, None).is_err(), "{path}");
        }
    }

    proptest! {
        #[test]
        fn files_of_arbitrary_paths_are_sorted(paths in proptest::collection::vec("[a-z./_-]{0,12}(train|test)?[-/0-9of]{0,16}(\\.parquet)?", 0..6)) {
            if let Ok(chosen) = files_of_split(&paths, Split::Train, None) {
                prop_assert!(chosen.is_sorted() && chosen.iter().all(|path| paths.contains(path)));
            }
        }
    }
}
