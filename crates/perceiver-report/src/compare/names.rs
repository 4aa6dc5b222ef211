//! Short names of runs in a comparison.

use std::path::PathBuf;

/// The maximum length of a name, in characters.
const LONGEST_NAME: usize = 40;

/// Returns the directory names of runs, or the paths as given where two directories share a name.
///
/// ```
/// let runs = ["a/run", "b/run", "c/other"].map(Into::into);
/// assert_eq!(perceiver_report::names(&runs), ["a/run", "b/run", "other"]);
/// ```
pub fn names(runs: &[PathBuf]) -> Vec<String> {
    let name = |run: &PathBuf| {
        let canonical = run.canonicalize().unwrap_or_else(|_| run.clone()); // resolves `.`
        canonical.file_name().map_or_else(
            || run.display().to_string(),
            |name| name.to_string_lossy().into(),
        )
    };
    let short: Vec<String> = runs.iter().map(name).collect();
    let unique = |name: &String| short.iter().filter(|other| *other == name).count() == 1;
    let names = short.iter().zip(runs).map(|(name, run)| {
        if unique(name) {
            cut(name)
        } else {
            cut(&run.display().to_string())
        }
    });
    names.collect()
}

/// Truncates a long name to its end, which is what distinguishes the runs of a sweep.
fn cut(name: &str) -> String {
    let count = name.chars().count();
    if count <= LONGEST_NAME {
        return name.to_string();
    }
    let end = name.chars().skip(count - LONGEST_NAME + 1);
    std::iter::once('…').chain(end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_keep_their_ends() {
        let cut = cut(&format!("{}end", "x".repeat(50)));
        assert_eq!(cut.chars().count(), LONGEST_NAME);
        assert!(cut.ends_with("end"));
    }
}
