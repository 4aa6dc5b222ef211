//! Checks that `docs/architecture.md` names only existing files, and names every source folder.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn page() -> String {
    fs::read_to_string(root().join("docs/architecture.md")).unwrap()
}

/// Returns the sections on crates: the crate's name, and the text up to the next heading.
fn sections(page: &str) -> Vec<(&str, &str)> {
    let parts = page.split("\n## ").skip(1);
    let of_crates = parts.filter_map(|part| {
        let (heading, text) = part.split_once('\n')?;
        let name = heading.split(':').next()?;
        name.starts_with("perceiver-").then_some((name, text))
    });
    of_crates.collect()
}

/// Returns the source files and folders named in backticks.
fn sources(text: &str) -> impl Iterator<Item = &str> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter(|name| is_code(Path::new(name)) || name.ends_with('/'))
}

fn is_code(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}

/// Returns the number of source files directly in a folder.
fn code_files(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap();
    entries
        .filter(|entry| is_code(&entry.as_ref().unwrap().path()))
        .count()
}

/// Returns all folders below `below/path`, relative to `below`.
fn folders(below: &Path, path: &str) -> Vec<String> {
    let mut folders_below = Vec::new();
    for entry in fs::read_dir(below.join(path)).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{path}{}/", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            folders_below.extend(folders(below, &name));
            folders_below.push(name);
        }
    }
    folders_below
}

#[test]
fn every_documented_file_exists() {
    let page = page();
    let mut named = 0;
    for (name, text) in sections(&page) {
        let src = root().join("crates").join(name).join("src");
        for source in sources(text).filter(|source| !source.starts_with("tests/")) {
            assert!(src.join(source).exists(), "{name}: {source} is not there");
            named += 1;
        }
    }
    assert!(named > 200, "{named}");
}

#[test]
fn every_crate_and_source_folder_is_documented() {
    let page = page();
    let sections = sections(&page);
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let section = sections.iter().find(|section| section.0 == name);
        let (_, text) = section.unwrap_or_else(|| panic!("there is no section on {name}"));
        let src = root().join("crates").join(&name).join("src");
        for folder in folders(&src, "") {
            let has_code = code_files(&src.join(&folder)) > 0;
            let is_named = sources(text).any(|source| source == folder);
            assert!(!has_code || is_named, "{name}: {folder} is not named");
        }
    }
}

/// At most fifteen source files per folder, so that a table of contents fits on a screen.
#[test]
fn folders_have_a_bounded_number_of_files() {
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let src = entry.unwrap().path().join("src");
        let mut all = folders(&src, "");
        all.push(String::new());
        for folder in all {
            let files = code_files(&src.join(&folder));
            assert!(files <= 15, "{}/{folder}: {files} files", src.display());
        }
    }
}
