//! Repository names: `USER/NAME`, `USER/NAME@REVISION`.

use std::fmt;
use std::str::FromStr;

use crate::error::{HubError, Result};

/// A repository name with an optional revision.
///
/// ```
/// use perceiver_hub::RepoName;
///
/// let name: RepoName = "someone/perceiver@v1".parse()?;
/// assert_eq!((name.id.as_str(), name.revision.as_deref()), ("someone/perceiver", Some("v1")));
/// assert!("../perceiver".parse::<RepoName>().is_err());
/// # Ok::<(), perceiver_hub::HubError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoName {
    /// `USER/NAME`.
    pub id: String,
    /// Branch, tag or commit.
    pub revision: Option<String>,
}

impl FromStr for RepoName {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self> {
        let (id, revision) = match text.split_once('@') {
            Some((id, revision)) => (id, Some(revision)),
            None => (text, None),
        };
        if id.matches('/').count() != 1 || !is_id(id) || !revision.is_none_or(is_revision) {
            return Err(HubError::Name {
                expected: "USER/NAME or USER/NAME@REVISION",
                found: format!("{text:?}"),
            });
        }
        Ok(Self {
            id: id.to_owned(),
            revision: revision.map(str::to_owned),
        })
    }
}

impl fmt::Display for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)?;
        match &self.revision {
            Some(revision) => write!(f, "@{revision}"),
            None => Ok(()),
        }
    }
}

/// Checks for `owner/name` or `name` in the characters that the Hub allows. The name becomes part
/// of addresses and of cache paths.
///
/// # Errors
/// When the text is anything else.
pub(crate) fn check_id(id: &str) -> Result<()> {
    if is_id(id) {
        return Ok(());
    }
    Err(HubError::Name {
        expected: "OWNER/NAME, such as uoft-cs/cifar100",
        found: format!("{id:?}"),
    })
}

fn is_id(id: &str) -> bool {
    let plain = |part: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !part.is_empty()
            && part.chars().all(allowed)
            && !part.starts_with('.')
            && !part.contains("..")
    };
    id.split('/').count() <= 2 && id.split('/').all(plain)
}

/// Returns whether git allows this name and it is safe in a cache path: `main`, `v1.0`,
/// `refs/pr/2`.
fn is_revision(revision: &str) -> bool {
    let plain = |part: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
        !part.is_empty()
            && part.chars().all(allowed)
            && !part.starts_with(['.', '-'])
            && !part.contains("..")
    };
    revision.split('/').all(plain)
}

/// Checks that a revision is safe in addresses and paths.
///
/// # Errors
/// When it is not.
pub(crate) fn check_revision(revision: &str) -> Result<()> {
    if is_revision(revision) {
        return Ok(());
    }
    Err(HubError::Name {
        expected: "a revision, such as main, v1 or a commit",
        found: format!("{revision:?}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_repository_names_are_rejected() {
        for id in [
            "",
            "a/b/c",
            "../up",
            "a/..",
            "me/pets?x",
            "me/",
            "C:\\pets",
            ".hidden/x",
        ] {
            assert!(check_id(id).is_err(), "{id}");
            assert!(id.parse::<RepoName>().is_err(), "{id}");
        }
        assert!(check_id("uoft-cs/cifar100").is_ok() && check_id("mnist").is_ok());
    }

    #[test]
    fn revisions_are_branches_tags_and_commits() {
        for good in ["me/a@main", "me/a@refs/pr/2", "me/a@v1.0", "me/a@0123abcd"] {
            assert_eq!(good.parse::<RepoName>().unwrap().to_string(), good);
        }
        for bad in [
            "me/a@",
            "me/a@../x",
            "me/a@a b",
            "me/a@/x",
            "a@b",
            "me/a@b@c",
        ] {
            assert!(bad.parse::<RepoName>().is_err(), "{bad}");
        }
    }
}
