//! The text form of a [`Source`]: what flags and configuration files hold.

use std::fmt;
use std::str::FromStr;

use crate::cifar::Cifar;
use crate::error::{DataError, Result};
use crate::source::Source;

/// What [`Source`] can be written as.
const FORMS: &str =
    "cifar100, cifar10, shapes, folder:DIR, shards:DIR or hf:USER/NAME[:IMAGE_COLUMN:LABEL_COLUMN]";

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cifar100 => Cifar::Hundred.fmt(f),
            Self::Cifar10 => Cifar::Ten.fmt(f),
            Self::Shapes => f.pad("shapes"),
            Self::Folder(root) => write!(f, "folder:{}", root.display()),
            Self::Shards(root) => write!(f, "shards:{}", root.display()),
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
            Some(("shards", dir)) if !dir.is_empty() => Some(Self::Shards(dir.into())),
            Some(("hf", address)) => parse_hub(address),
            Some(("memory", name)) if !name.is_empty() => Some(Self::Memory(name.into())),
            Some(_) => None,
        };
        parsed.ok_or_else(|| DataError::InvalidOption {
            option: "dataset",
            expected: FORMS.into(),
            found: format!("{text:?}"),
        })
    }
}

/// `USER/NAME`, or that with two columns; a column left empty is guessed.
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

    #[test]
    fn every_source_survives_its_text_form() {
        let sources = [
            (Source::Cifar100, "cifar100"),
            (Source::Cifar10, "cifar10"),
            (Source::Shapes, "shapes"),
            (Source::Folder("a:b/c d".into()), "folder:a:b/c d"),
            (Source::Shards("/data/s".into()), "shards:/data/s"),
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
    fn other_text_is_answered_with_the_accepted_forms() {
        let wrong = [
            "",
            "cifar",
            "CIFAR100",
            "folder",
            "folder:",
            "shards:",
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
            assert_eq!(error, format!("dataset: expected {FORMS}, found {text:?}"));
        }
        assert!(serde_json::from_str::<Source>("\"mnist\"").is_err());
    }

    proptest! {
        #[test]
        fn what_parses_prints_as_what_parses_the_same(text in "(folder|shards|hf|memory)?:?[a-z/: ]{0,12}") {
            if let Ok(source) = text.parse::<Source>() {
                prop_assert_eq!(source.to_string().parse::<Source>().unwrap(), source);
            }
        }
    }
}
