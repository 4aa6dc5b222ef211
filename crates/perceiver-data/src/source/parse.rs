//! Parses the name of a [`Source`], as flags and configuration files have it.

use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use crate::error::{DataError, Result};
use crate::formats::cifar::Cifar;
use crate::source::Source;

/// The text forms of [`Source`].
const FORMS: &str = "cifar100, cifar10, shapes, folder:DIR, shards:DIR[,image=COLUMN][,label=COLUMN] or \
     hf:USER/NAME[:IMAGE_COLUMN:LABEL_COLUMN]";

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cifar100 => Cifar::Hundred.fmt(f),
            Self::Cifar10 => Cifar::Ten.fmt(f),
            Self::Shapes => f.pad("shapes"),
            Self::Folder(root) => write!(f, "folder:{}", root.display()),
            Self::Shards {
                root,
                image_column,
                label_column,
            } => {
                write!(f, "shards:{}", root.display())?;
                for (key, column) in [("image", image_column), ("label", label_column)] {
                    if let Some(column) = column {
                        write!(f, ",{key}={column}")?;
                    }
                }
                Ok(())
            }
            Self::Hub {
                repo,
                image_column,
                label_column,
            } => {
                write!(f, "hf:{repo}")?;
                if image_column.is_some() || label_column.is_some() {
                    let [image, label] =
                        [image_column, label_column].map(|column| column.as_deref().unwrap_or(""));
                    write!(f, ":{image}:{label}")?;
                }
                Ok(())
            }
            Self::Memory(name) => write!(f, "memory:{name}"),
        }
    }
}

impl FromStr for Source {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = match text.split_once(':') {
            None => match text {
                "cifar100" => Some(Self::Cifar100),
                "cifar10" => Some(Self::Cifar10),
                "shapes" => Some(Self::Shapes),
                _ => None,
            },
            Some(("folder", dir)) if !dir.is_empty() => Some(Self::Folder(dir.into())),
            Some(("shards", address)) => parse_shards(address),
            Some(("hf", address)) => parse_hub(address),
            Some(("memory", name)) if !name.is_empty() => Some(Self::Memory(name.into())),
            Some(_) => None,
        };
        parsed.ok_or_else(|| DataError::InvalidOption {
            option: "dataset",
            expected: FORMS.into(),
            found: format!("{text:?}{}", meant(text)),
        })
    }
}

/// Suggests what an invalid source text probably meant: the folder of that name, or a name in
/// another spelling.
fn meant(text: &str) -> String {
    let name = text.to_lowercase().replace(['-', '_'], "");
    let known = ["cifar100", "cifar10", "shapes"];
    let meant = if Path::new(text).is_dir() {
        let kind = if holds_shards(Path::new(text)) {
            "shards"
        } else {
            "folder"
        };
        format!("{kind}:{text}")
    } else if let Some(known) = known.into_iter().find(|known| *known == name) {
        known.to_string()
    } else if parse_hub(text).is_some() {
        format!("hf:{text}")
    } else {
        return String::new();
    };
    format!("; did you mean {meant}?")
}

/// Whether a folder, or one directly in it, contains shards.
fn holds_shards(folder: &Path) -> bool {
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    let is_shard = |path: &Path| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        extension.is_some_and(|extension| ["tar", "parquet"].contains(&extension))
    };
    entries(folder).any(|entry| {
        let path = entry.path();
        is_shard(&path) || entries(&path).any(|inner| is_shard(&inner.path()))
    })
}

/// Parses a directory and the optional columns after it.
fn parse_shards(address: &str) -> Option<Source> {
    let (mut dir, mut image_column, mut label_column) = (address, None, None);
    while let Some((before, option)) = dir.rsplit_once(',') {
        let (key, column) = option.split_once('=').unwrap_or(("", ""));
        let target = match key {
            "image" => &mut image_column,
            "label" => &mut label_column,
            _ => break, // a comma of the directory's name
        };
        if column.is_empty() || target.is_some() {
            return None;
        }
        *target = Some(column.to_owned());
        dir = before;
    }
    (!dir.is_empty()).then(|| Source::Shards {
        root: dir.into(),
        image_column,
        label_column,
    })
}

/// Parses `USER/NAME`, optionally followed by two columns; an empty column is guessed.
fn parse_hub(address: &str) -> Option<Source> {
    let parts: Vec<&str> = address.split(':').collect();
    let (repo, image, label) = match parts[..] {
        [repo] => (repo, "", ""),
        [repo, image, label] => (repo, image, label),
        _ => return None,
    };
    let (user, name) = repo.split_once('/')?;
    if user.is_empty() || name.is_empty() || name.contains('/') {
        return None;
    }
    let column = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Some(Source::Hub {
        repo: repo.to_owned(),
        image_column: column(image),
        label_column: column(label),
    })
}

impl TryFrom<String> for Source {
    type Error = DataError;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Source> for String {
    fn from(source: Source) -> Self {
        source.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hub(repo: &str, image: Option<&str>, label: Option<&str>) -> Source {
        Source::Hub {
            repo: repo.into(),
            image_column: image.map(Into::into),
            label_column: label.map(Into::into),
        }
    }

    fn shards(root: &str, image: Option<&str>, label: Option<&str>) -> Source {
        Source::Shards {
            root: root.into(),
            image_column: image.map(Into::into),
            label_column: label.map(Into::into),
        }
    }

    #[test]
    fn every_source_round_trips_as_text() {
        let sources = [
            (Source::Cifar100, "cifar100"),
            (Source::Cifar10, "cifar10"),
            (Source::Shapes, "shapes"),
            (Source::Folder("a:b/c d".into()), "folder:a:b/c d"),
            (shards("/data/s", None, None), "shards:/data/s"),
            (shards("a,b", None, None), "shards:a,b"),
            (
                shards("/data/s", Some("photo"), Some("kind")),
                "shards:/data/s,image=photo,label=kind",
            ),
            (shards("a,b", None, Some("y")), "shards:a,b,label=y"),
            (hub("uoft-cs/cifar100", None, None), "hf:uoft-cs/cifar100"),
            (hub("a/b", Some("img"), Some("y")), "hf:a/b:img:y"),
            (hub("a/b", None, Some("y")), "hf:a/b::y"),
            (Source::Memory("my blobs: 2".into()), "memory:my blobs: 2"),
        ];
        for (source, text) in sources {
            assert_eq!(source.to_string(), text);
            assert_eq!(text.parse::<Source>().unwrap(), source);
            let json = serde_json::to_string(&source).unwrap();
            assert_eq!(json, format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<Source>(&json).unwrap(), source);
        }
    }

    #[test]
    fn errors_for_invalid_text_list_the_accepted_forms() {
        let wrong = [
            "",
            "cifar",
            "CIFAR100",
            "folder",
            "folder:",
            "shards:",
            "shards:,label=y",
            "shards:a,label=",
            "shards:a,label=x,label=y",
            "hf",
            "hf:",
            "hf:name",
            "hf:a/",
            "hf:/b",
            "hf:a/b/c",
            "hf:a/b:img",
            "hf:a/b:img:y:z",
            "memory",
            "memory:",
            "shapes:",
            "s3:bucket",
        ];
        for text in wrong {
            let error = text.parse::<Source>().unwrap_err().to_string();
            let expected = format!("dataset: expected {FORMS}, found {text:?}");
            assert!(error.starts_with(&expected), "{error}");
        }
        assert!(serde_json::from_str::<Source>("\"mnist\"").is_err());
    }

    #[test]
    fn a_similar_form_is_suggested() {
        let root = tempfile::tempdir().unwrap();
        for file in [
            "photos/cat/1.png",
            "shards/train-0.tar",
            "pq/data/train.parquet",
        ] {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let of = |name: &str| meant(&root.path().join(name).display().to_string());
        assert!(of("photos").starts_with("; did you mean folder:/"));
        assert!(of("shards").starts_with("; did you mean shards:/"));
        assert!(of("pq").ends_with("/pq?") && of("pq").contains("shards:"));
        assert_eq!(meant("CIFAR-100"), "; did you mean cifar100?");
        assert_eq!(meant("someone/pets"), "; did you mean hf:someone/pets?");
        assert_eq!(meant("mnist"), "");
    }

    proptest! {
        #[test]
        fn parsing_and_printing_round_trip(text in "(folder|shards|hf|memory)?:?[a-z/:, ]{0,12}(,label=[a-z,=]{0,3})?") {
            if let Ok(source) = text.parse::<Source>() {
                prop_assert_eq!(source.to_string().parse::<Source>().unwrap(), source);
            }
        }
    }
}
