//! Resolves the names of runs and checkpoints, with suggestions for those that do not exist.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Error, Result, anyhow};
use perceiver_train::{RunDirectory, nearest, shell_quoted};

use crate::args::errors::usage_error;

/// Opens the run in an existing directory, named by `flag`.
pub(crate) fn run(flag: &str, path: &Path) -> Result<RunDirectory> {
    if !path.is_dir() {
        return Err(missing(flag, path));
    }
    Ok(RunDirectory::open(path)?)
}

/// Whether a directory holds a run, damaged or not.
pub(crate) fn is_run(directory: &Path) -> bool {
    let training = directory.join("training");
    let of_training = ["recipe.toml", "state.safetensors"].map(|name| training.join(name));
    let both = ["config.json", "metrics.jsonl"].map(|name| directory.join(name));
    of_training.iter().any(|path| path.is_file()) || both.iter().all(|path| path.is_file())
}

/// Whether a name looks like a local path rather than a model on the Hub, `USER/NAME[@REVISION]`.
pub(crate) fn looks_local(name: &str) -> bool {
    let id = name.split('@').next().unwrap_or_default();
    let first = id.split('/').next().unwrap_or_default();
    name.starts_with(['.', '/', '~'])
        || name.contains('\\')
        || id.ends_with('/')
        || id.matches('/').count() > 1
        || id.contains('/') && (first == "runs" || Path::new(first).is_dir())
        || Path::new(name).exists()
}

/// Creates the error for a directory that does not exist, named by `flag`.
pub(crate) fn missing(flag: &str, path: &Path) -> Error {
    let found = match path.symlink_metadata() {
        Ok(_) if path.is_file() => "found a file",
        Ok(_) => "found a broken link or special file",
        Err(_) => "found none",
    };
    let shown = path.display();
    usage_error(anyhow!(
        "{flag} {shown}: expected a directory, {found}{}",
        hint(path)
    ))
}

/// Suggests a directory of a similar name, or else the command that lists runs.
pub(crate) fn hint(path: &Path) -> String {
    match suggestion(path) {
        Some(suggestion) => format!("; did you mean {}?", shell_quoted(suggestion)),
        None if Path::new("runs").is_dir() => "; `perceiver runs` lists the runs".to_string(),
        None => String::new(),
    }
}

/// Finds an existing run or checkpoint with a name similar to that of `path`: a parent directory of
/// a file, a sibling, or one in `runs`.
fn suggestion(path: &Path) -> Option<PathBuf> {
    if path.is_file() {
        let mut above = path.ancestors().skip(1);
        return above.find(|above| is_model(above)).map(Path::to_path_buf);
    }
    let name = path.file_name()?.to_str()?;
    let beside = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    [beside, Path::new("runs")].into_iter().find_map(|folder| {
        let names = models_in(folder);
        let similar = nearest(name, names.iter().map(String::as_str))?;
        let folder = folder.strip_prefix(".").unwrap_or(folder);
        Some(folder.join(similar))
    })
}

fn is_model(directory: &Path) -> bool {
    is_run(directory) || directory.join("config.json").is_file()
}

/// Lists the names of the runs and checkpoints in a folder.
fn models_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let models = entries.filter(|entry| is_model(&entry.path()));
    let mut names: Vec<String> = models
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_paths_are_distinguished_from_hub_models() {
        for local in [
            "./x",
            "../x",
            "/x",
            "~/x",
            "runs/nope",
            "a/b/c",
            "photos/",
            "src/nope",
            r"runs\nope",
        ] {
            assert!(looks_local(local), "{local}");
        }
        for hub in ["someone/perceiver", "someone/x@v1", "someone/x@refs/pr/2"] {
            assert!(!looks_local(hub), "{hub}");
        }
    }

    #[test]
    fn a_similar_run_is_suggested() {
        let root = tempfile::tempdir().unwrap();
        for name in ["photos-quickstart-1", "other"] {
            let training = root.path().join(name).join("training");
            fs::create_dir_all(&training).unwrap();
            fs::write(training.join("recipe.toml"), "").unwrap();
        }
        let of = |name: &str| suggestion(&root.path().join(name));
        let run = root.path().join("photos-quickstart-1");
        assert_eq!(of("photos-quickstart"), Some(run.clone()));
        assert_eq!(of("photos-quikstart-1"), Some(run.clone()));
        assert_eq!(of("photos-quickstart-1/training/recipe.toml"), Some(run));
        assert_eq!(of("zebra"), None);
    }
}
