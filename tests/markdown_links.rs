//! Checks relative links in Markdown files: each leads to an existing file and heading.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders of pages, and whether to include subfolders, which may contain data sets and runs.
const FOLDERS: [(&str, bool); 6] = [
    ("", false),
    ("data", false),
    ("crates", true),
    ("docs", true),
    ("tests", true),
    ("xtask", true),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn is_markdown(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "md")
}

/// Whether a folder is skipped: build output, caches, and templates, whose links are relative to
/// other places.
fn is_left_out(folder: &OsStr) -> bool {
    matches!(folder.to_str(), Some("target" | "templates"))
        || folder.as_encoded_bytes().starts_with(b".")
}

/// Returns the Markdown files in a folder, and in its subfolders if it is `deep`.
fn pages(folder: &Path, deep: bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            if deep && !is_left_out(&entry.file_name()) {
                found.extend(pages(&path, deep));
            }
        } else if is_markdown(&path) {
            found.push(path);
        }
    }
    found
}

/// Parses a code fence: its character, its length, and the text after it.
fn fence(line: &str) -> Option<(char, usize, &str)> {
    let line = line.trim_start();
    let character = line.chars().next().filter(|first| "`~".contains(*first))?;
    let rest = line.trim_start_matches(character);
    let length = line.len() - rest.len();
    // Inline code may begin with three backticks, too.
    let is_in_line = character == '`' && rest.contains('`');
    (length >= 3 && !is_in_line).then_some((character, length, rest))
}

/// Returns the lines outside code fences, with their numbers.
fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut lines = Vec::new();
    let mut open = None;
    for (number, line) in (1..).zip(text.lines()) {
        match (open, fence(line)) {
            (None, None) => lines.push((number, line)),
            (None, Some((character, length, _))) => open = Some((character, length)),
            (Some((opened, at_least)), Some((character, length, rest)))
                if character == opened && length >= at_least && rest.trim().is_empty() =>
            {
                open = None;
            }
            (Some(_), _) => {}
        }
    }
    lines
}

/// Removes inline code from a line.
fn without_code(line: &str) -> String {
    let mut kept = String::new();
    let mut rest = line;
    while let Some(start) = rest.find('`') {
        let (before, from) = rest.split_at(start);
        let after = from.trim_start_matches('`');
        let ticks = &from[..from.len() - after.len()];
        kept.push_str(before);
        rest = after.split_once(ticks).map_or(after, |parts| parts.1);
    }
    kept + rest
}

/// Returns the target in `[label]: target`.
fn definition(line: &str) -> Option<&str> {
    let (label, rest) = line.strip_prefix('[')?.split_once(']')?;
    let target = rest.strip_prefix(':')?.split_whitespace().next()?;
    let is_footnote = label.starts_with('^');
    (!is_footnote).then_some(target)
}

/// Returns the targets of the links in a line: `[text](target)`, `![text](target "title")` and
/// `[label]: target`.
fn targets(line: &str) -> Vec<String> {
    let line = without_code(line);
    let inline = line.split("](").skip(1);
    let inline = inline.filter_map(|part| part.split([')', ' ']).next());
    let bare = |target: &str| target.trim_matches(['<', '>']).to_string();
    inline.chain(definition(&line)).map(bare).collect()
}

/// Returns the anchor that GitHub gives to a heading.
fn slug(heading: &str) -> String {
    let mut parts = heading.split("](");
    let mut shown = parts.next().unwrap_or_default().to_lowercase();
    for part in parts {
        let after = part.split_once(')').map_or("", |parts| parts.1); // the target is not shown
        shown.push_str(&after.to_lowercase());
    }
    let is_kept = |character: &char| character.is_alphanumeric() || "_- ".contains(*character);
    let kept: String = shown.chars().filter(is_kept).collect();
    kept.replace(' ', "-")
}

/// Returns the anchors of the headings of a page. The second one of the same name ends in `-1`.
fn anchors(text: &str) -> HashSet<String> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut anchors = HashSet::new();
    for (_, line) in prose(text) {
        let heading = line.trim_start_matches('#');
        let level = line.len() - heading.len();
        if !(1..=6).contains(&level) || !heading.starts_with(' ') {
            continue;
        }
        let slug = slug(heading.trim());
        let earlier = counts.entry(slug.clone()).or_default();
        anchors.insert(match *earlier {
            0 => slug,
            number => format!("{slug}-{number}"),
        });
        *earlier += 1;
    }
    anchors
}

/// Resolves a link of a page to a file and heading below `root`.
fn follow(root: &Path, page: &Path, target: &str) -> Result<(), &'static str> {
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let file = if path.is_empty() {
        page.to_path_buf()
    } else if let Some(path) = path.strip_prefix('/') {
        root.join(path)
    } else {
        page.parent().unwrap().join(path)
    };
    if !file.exists() {
        return Err("there is no such file");
    }
    let has_headings = is_markdown(&file);
    if has_headings && !anchor.is_empty() {
        let text = fs::read_to_string(&file).unwrap();
        if !anchors(&text).contains(anchor) {
            return Err("there is no such heading");
        }
    }
    Ok(())
}

/// Returns the number of relative links of a page, and a line for each dead one.
fn check(root: &Path, page: &Path) -> (usize, Vec<String>) {
    let text = fs::read_to_string(page).unwrap();
    let (mut count, mut dead) = (0, Vec::new());
    for (number, line) in prose(&text) {
        for target in targets(line) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            count += 1;
            if let Err(finding) = follow(root, page, &target) {
                let page = page.display();
                dead.push(format!("{page}:{number}: {target}: {finding}"));
            }
        }
    }
    (count, dead)
}

#[test]
fn every_relative_link_leads_to_a_file_and_a_heading() {
    let root = root();
    let (mut count, mut dead) = (0, Vec::new());
    for (folder, deep) in FOLDERS {
        for page in pages(&root.join(folder), deep) {
            let (links, of_page) = check(&root, &page);
            count += links;
            dead.extend(of_page);
        }
    }
    assert!(dead.is_empty(), "{}", dead.join("\n"));
    assert!(count > 100, "{count}");
}

#[test]
fn dead_links_are_found_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let other = "# One\n\n## It's `two`, [three](x.md)\n\n# One\n\n```sh\n# Four\n```\n";
    fs::write(folder.path().join("other.md"), other).unwrap();
    fs::write(folder.path().join("code.rs"), "").unwrap();
    let page = folder.path().join("page.md");
    let dead = |text: &str| {
        fs::write(&page, text).unwrap();
        check(folder.path(), &page).1
    };

    for live in [
        "[a](other.md), ![b](code.rs \"title\")",
        "[`a`](<other.md>)",
        "[a](/other.md#one) and [a](other.md#one-1)",
        "[a](other.md#its-two-three)",
        "# Of this page\n\n[a](#of-this-page)",
        "[a](code.rs#L7)",
        "[a](https://example.org/no.md), [a](mailto:no@example.org)",
        "`[a](no.md)` and ``[`a`](no.md)``",
        "````text\n```\n[a](no.md)\n````\n[a](other.md)",
        "[a]: other.md",
        "[^a]: no.md",
    ] {
        assert_eq!(dead(live), [""; 0], "{live}");
    }

    let (file, heading) = ("there is no such file", "there is no such heading");
    for (text, target, finding) in [
        ("[a](no.md)", "no.md", file),
        ("[a](/no.md#one)", "/no.md#one", file),
        ("`a` [`b`](no.md) `c`", "no.md", file),
        ("![a](no.png \"title\")", "no.png", file),
        ("[a]: no.md", "no.md", file),
        ("```sh\n```\n[a](no.md)", "no.md", file),
        ("[a](other.md#two)", "other.md#two", heading),
        ("[a](other.md#one-2)", "other.md#one-2", heading),
        ("[a](other.md#four)", "other.md#four", heading),
        ("[a](#one)", "#one", heading),
    ] {
        let line = text.lines().count();
        let expected = format!("{}:{line}: {target}: {finding}", page.display());
        assert_eq!(dead(text), [expected], "{text}");
    }
}
