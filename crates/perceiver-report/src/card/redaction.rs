//! Redaction: removes paths of this machine from everything that is published.
//!
//! For `folder:/home/ada/clinic/scans`, neither the user name nor the parent directories are
//! published. A path is replaced by its last component, `folder:scans`: in the fields that hold
//! paths, and in the text of every file.

use std::path::{Component, Path, PathBuf};

use perceiver_data::Source;
use perceiver_train::{CheckpointConfig, Recipe, TestResults};

use crate::card::CardError;

/// The replacement for a directory whose name carries no information.
const ELLIPSIS: &str = "...";

/// The columns of `predictions.csv` that hold model output; the other columns name files.
const COLUMNS: [&str; 6] = [
    "image",
    "label",
    "predicted",
    "probability",
    "label_probability",
    "label_rank",
];

/// Redacts the local paths that a run may mention.
///
/// ```
/// # use std::path::Path;
/// use perceiver_report::Public;
///
/// let mut public = Public::default();
/// public.hide(Path::new("/home/ada/clinic/scans"), "scans");
/// assert_eq!(public.text("folder:/home/ada/clinic/scans"), "folder:scans");
/// assert_eq!(public.text("/home/ada/clinic/list.txt"), ".../list.txt");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Public {
    /// Spellings of paths and their replacements, the longest first.
    paths: Vec<(String, String)>,
    /// The user name, which no replacement may reveal.
    user: Option<String>,
    /// Whether the images are the author's own; their file names are then private too.
    own_images: bool,
}

impl Public {
    /// Collects the paths that the files of a checkpoint in `directory` may mention: its data set,
    /// its initial checkpoint, the checkpoint itself, the current directory and the home directory.
    pub fn of(directory: &Path, config: &CheckpointConfig, recipe: Option<&Recipe>) -> Self {
        let home = std::env::home_dir();
        let mut public = Self {
            user: home.as_deref().and_then(last_name),
            ..Self::default()
        };
        public.hide(directory, &public.name(directory, "checkpoint"));
        for other in [std::env::current_dir().ok(), home].into_iter().flatten() {
            public.hide_directory(&other);
        }
        let sources = [
            config.data.dataset.as_ref(),
            recipe.map(|recipe| &recipe.data.dataset),
        ];
        for source in sources.into_iter().flatten() {
            if let Source::Folder(root) | Source::Shards { root, .. } = source {
                public.own_images = true;
                public.hide(root, &public.name(root, "images"));
            }
        }
        if let Some(recipe) = recipe {
            public.hide(&recipe.data.data_dir, "data");
            if let Some(initial) = &recipe.training.init_from {
                let checkpoint = Path::new(&initial.checkpoint);
                public.hide(checkpoint, &public.checkpoint(&initial.checkpoint));
            }
        }
        public
    }

    /// Replaces a path, in every spelling, by `name`, and its parent directories by an ellipsis.
    pub fn hide(&mut self, path: &Path, name: &str) {
        for path in spellings(path) {
            self.add(&path, name);
            for directory in path.ancestors().skip(1) {
                self.hide_directory(directory);
            }
        }
    }

    /// Hides a directory, unless it exists on every machine (such as `/home`).
    fn hide_directory(&mut self, directory: &Path) {
        let names = directory.components().filter(is_name).count();
        if directory.is_absolute() && names > 1 {
            self.add(directory, ELLIPSIS);
        }
    }

    fn add(&mut self, path: &Path, name: &str) {
        let shown = path.display().to_string();
        let in_json = serde_json::to_string(&shown).unwrap_or_default();
        let in_json = in_json.trim_matches('"').to_string();
        for written in [shown, in_json] {
            let known = self.paths.iter().any(|(path, _)| *path == written);
            if !known && written != name {
                self.paths.push((written, name.to_string()));
            }
        }
        self.paths
            .sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
    }

    /// Returns the last component of a path, or `else_called` if there is none or it is the user
    /// name.
    fn name(&self, path: &Path, else_called: &str) -> String {
        let canonical = path.canonicalize();
        let name = last_name(path).or_else(|| last_name(canonical.as_deref().ok()?));
        let name = name.filter(|name| self.user.as_ref() != Some(name));
        name.unwrap_or_else(|| else_called.to_string())
    }

    /// Replaces the path of a data set, if it has one, by its last component.
    fn source(&self, source: &Source) -> Source {
        let named = |root: &Path| PathBuf::from(self.name(root, "images"));
        match source {
            Source::Folder(root) => Source::Folder(named(root)),
            Source::Shards {
                root,
                image_column,
                label_column,
            } => Source::Shards {
                root: named(root),
                image_column: image_column.clone(),
                label_column: label_column.clone(),
            },
            other => other.clone(),
        }
    }

    /// Returns the public name of a checkpoint: unchanged for the Hub, the last component for a
    /// directory.
    fn checkpoint(&self, name: &str) -> String {
        let path = Path::new(name);
        let on_the_hub = || {
            let (user, rest) = name.split_once('/')?;
            let plain = !user.is_empty() && !user.starts_with(['.', '~']) && !rest.contains('/');
            (plain && !Path::new(user).is_dir()).then_some(())
        };
        if !path.is_dir() && on_the_hub().is_some() {
            return name.to_string();
        }
        self.name(path, "checkpoint")
    }

    /// Returns the redacted configuration of a checkpoint.
    #[must_use]
    pub fn config(&self, config: &CheckpointConfig) -> CheckpointConfig {
        let mut config = config.clone();
        config.data.dataset = config.data.dataset.map(|source| self.source(&source));
        config
    }

    /// Returns the redacted recipe. Fields that only concern this machine are reset to their
    /// defaults.
    #[must_use]
    pub fn recipe(&self, recipe: &Recipe) -> Recipe {
        let mut recipe = recipe.clone();
        recipe.data.dataset = self.source(&recipe.data.dataset);
        recipe.data.data_dir = "data".into();
        if let Some(initial) = &mut recipe.training.init_from {
            initial.checkpoint = self.checkpoint(&initial.checkpoint);
        }
        recipe
    }

    /// Returns the redacted test results, which name the data set.
    #[must_use]
    pub fn results(&self, results: &TestResults) -> TestResults {
        TestResults {
            dataset: self.text(&results.dataset),
            ..results.clone()
        }
    }

    /// Replaces the private paths in a text.
    #[must_use]
    pub fn text(&self, text: &str) -> String {
        let mut text = text.to_string();
        for (path, name) in &self.paths {
            let mut from = 0;
            while let Some(at) = find(&text, path, from) {
                text.replace_range(at..at + path.len(), name);
                from = at + name.len();
            }
        }
        text
    }

    /// Returns the first private path in a text, if any.
    pub fn private_in(&self, text: &str) -> Option<&str> {
        let mut paths = self.paths.iter().map(|(path, _)| path.as_str());
        paths.find(|path| find(text, path, 0).is_some())
    }

    /// Returns the redacted text of a `predictions.csv`. For the author's own images, the columns
    /// that name files are removed.
    ///
    /// # Errors
    /// When the text is not valid CSV.
    pub fn predictions(&self, text: &str) -> Result<String, CardError> {
        if !self.own_images {
            return Ok(self.text(text));
        }
        let wrong =
            |error: &dyn std::fmt::Display| CardError::Text(format!("predictions.csv: {error}"));
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let names = reader.headers().map_err(|error| wrong(&error))?.clone();
        let kept: Vec<usize> = (0..names.len())
            .filter(|&column| COLUMNS.contains(&&names[column]))
            .collect();
        if kept.len() == names.len() {
            return Ok(text.to_string());
        }
        let mut writer = csv::Writer::from_writer(Vec::new());
        let rows = std::iter::once(Ok(names)).chain(reader.into_records());
        for row in rows {
            let row = row.map_err(|error| wrong(&error))?;
            let fields = kept.iter().map(|&column| &row[column]);
            writer.write_record(fields).map_err(|error| wrong(&error))?;
        }
        let bytes = writer.into_inner().map_err(|error| wrong(&error))?;
        String::from_utf8(bytes).map_err(|error| wrong(&error))
    }
}

/// Returns the spellings of a path: as given, absolute, and with links resolved.
fn spellings(path: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    // A single component reveals nothing and would match within many words.
    if path.components().count() > 1 {
        all.push(path.to_path_buf());
    }
    all.extend(std::path::absolute(path));
    all.extend(path.canonicalize());
    all.retain(|path| path.components().any(|part| is_name(&part)));
    all.dedup();
    all
}

fn is_name(part: &Component) -> bool {
    matches!(part, Component::Normal(_))
}

fn last_name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_string_lossy().into_owned())
}

/// Finds a path in a text from position `from` on, except as part of a longer name.
fn find(text: &str, path: &str, from: usize) -> Option<usize> {
    let in_name = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    let mut from = from;
    while let Some(offset) = text.get(from..)?.find(path) {
        let at = from + offset;
        let before = text[..at].chars().next_back();
        let after = text[at + path.len()..].chars().next();
        let begins = before.is_none_or(|c| !in_name(c) && c != '/');
        if begins && after.is_none_or(|c| !in_name(c) || is_end_of_sentence(text, at + path.len()))
        {
            return Some(at);
        }
        from = at + path.len();
    }
    None
}

/// Whether the text at `at` is a full stop that ends a sentence.
fn is_end_of_sentence(text: &str, at: usize) -> bool {
    let mut rest = text[at..].chars();
    rest.next() == Some('.') && rest.next().is_none_or(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use perceiver_train::InitialWeights;

    use super::*;

    fn hiding(path: &str, name: &str) -> Public {
        let mut public = Public::default();
        public.hide(Path::new(path), name);
        public
    }

    #[test]
    fn paths_are_replaced_by_their_names() {
        let public = hiding("/home/ada/clinic/scans", "scans");
        for (text, expected) in [
            ("folder:/home/ada/clinic/scans", "folder:scans"),
            (
                "{\"a\": \"/home/ada/clinic/scans/x/1.png\"}",
                "{\"a\": \"scans/x/1.png\"}",
            ),
            ("in /home/ada/clinic/scans.", "in scans."),
            ("/home/ada/clinic/scans2", ".../scans2"),
            ("/home/ada", "..."),
            (
                "/home/adam and /mnt/home/ada",
                "/home/adam and /mnt/home/ada",
            ),
            ("nothing", "nothing"),
        ] {
            assert_eq!(public.text(text), expected);
            assert_eq!(public.private_in(text).is_some(), text != expected);
            assert_eq!(public.private_in(expected), None);
        }
    }

    #[test]
    fn json_escaped_paths_are_redacted() {
        let public = hiding("/home/ada/a \"b\"/scans", "scans");
        let json = serde_json::to_string("/home/ada/a \"b\"/scans/1.png").unwrap();
        assert_eq!(public.text(&json), "\"scans/1.png\"");
    }

    #[test]
    fn recipes_keep_names_without_paths() {
        let public = Public {
            user: Some("ada".to_string()),
            ..Public::default()
        };
        let mut recipe = Recipe::default();
        recipe.data.data_dir = "/mnt/disk/data".into();
        for (dataset, checkpoint, expected) in [
            (
                "folder:/home/ada/scans",
                "/home/ada/runs/best",
                ("folder:scans", "best"),
            ),
            ("shards:../x/wds/", "../runs/best", ("shards:wds", "best")),
            (
                "folder:/home/ada",
                "/home/ada",
                ("folder:images", "checkpoint"),
            ),
            (
                "cifar100",
                "someone/perceiver@v1",
                ("cifar100", "someone/perceiver@v1"),
            ),
            (
                "hf:someone/pets",
                "src/anything",
                ("hf:someone/pets", "anything"),
            ),
        ] {
            recipe.data.dataset = dataset.parse().unwrap();
            recipe.training.init_from = Some(InitialWeights {
                checkpoint: checkpoint.to_string(),
                sha256: "00".to_string(),
            });
            let shared = public.recipe(&recipe);
            let initial = shared.training.init_from.unwrap();
            let actual = (shared.data.dataset.to_string(), initial.checkpoint);
            assert_eq!((actual.0.as_str(), actual.1.as_str()), expected);
            assert_eq!(shared.data.data_dir, Path::new("data"));
            assert_eq!(initial.sha256, "00");
        }
    }

    #[test]
    fn predictions_on_user_images_contain_no_file_names() {
        let mut public = Public {
            own_images: true,
            ..Public::default()
        };
        let with_paths = "image,path,label,predicted\n0,\"a,b/ada.png\",1,2\n";
        let actual = public.predictions(with_paths).unwrap();
        assert_eq!(actual, "image,label,predicted\n0,1,2\n");
        let without = "image,label,predicted\n0,1,2\n";
        assert_eq!(public.predictions(without).unwrap(), without);
        public.own_images = false;
        assert_eq!(public.predictions(with_paths).unwrap(), with_paths);
    }
}
