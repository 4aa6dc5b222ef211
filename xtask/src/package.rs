//! The packages that a release publishes: made by `cargo package`, listed, checked for stray files,
//! compiled from their packaged sources, and used by the projects in `tests/downstream`.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use comfy_table::{CellAlignment, presets};
use flate2::read::GzDecoder;
use serde::Deserialize;
use tar::Archive;
use toml::{Table, Value};

use crate::cargo::{cargo, cargo_output};
use crate::error::{Result, XtaskError};

/// The largest compressed package, 1 MB; the registry's limit is 10 MB.
const MAX_PACKAGE_BYTES: u64 = 1_000_000;

/// Files at the top of a package, as `cargo package` writes them or as a manifest includes them.
const TOP_FILES: [&str; 7] = [
    ".cargo_vcs_info.json",
    "Cargo.lock",
    "Cargo.toml",
    "Cargo.toml.orig",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
];

/// Folders of a package, each with the extensions of the files in it.
const FOLDERS: [(&str, &[&str]); 4] = [
    ("src", &["rs", "cu"]),
    ("examples", &["rs"]),
    ("templates", &["html", "svg", "md", "css", "js", "json"]),
    ("presets", &["toml"]),
];

/// The projects in `tests/downstream`, each with the cargo command that proves it.
const PROJECTS: [(&str, &str); 2] = [("own-data", "run"), ("own-transformer", "test")];

/// A package: its files, and its compressed size.
#[derive(Debug)]
pub struct Package {
    name: String,
    version: String,
    /// The packaged sources.
    folder: PathBuf,
    files: Vec<PathBuf>,
    bytes: u64,
}

impl Package {
    /// Returns the path of the packaged sources as text.
    fn path(&self) -> String {
        self.folder.display().to_string()
    }
}

/// The part of `cargo metadata` that is used.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Member>,
    target_directory: PathBuf,
}

/// A member of the workspace.
#[derive(Deserialize)]
struct Member {
    name: String,
    version: String,
    /// The registries to publish to: `Some([])` if the package is not to be published.
    publish: Option<Vec<String>>,
}

/// Packages all crates of the workspace at `root` that are to be published, and checks their files.
///
/// # Errors
/// When cargo fails, or a package has stray files or is too large.
pub fn package(root: &Path) -> Result<Vec<Package>> {
    let metadata = metadata(root)?;
    let members = metadata.packages.into_iter();
    let members: Vec<Member> = members.filter(|member| member.publish.is_none()).collect();
    let names = members.iter().flat_map(|member| ["-p", &member.name]);
    let mut command = cargo();
    command
        .current_dir(root)
        .args(["package", "--no-verify", "--allow-dirty", "--locked"])
        .args(names);
    run(command)?;
    let folder = metadata.target_directory.join("package");
    let packages = members.into_iter().map(|member| unpack(&folder, member));
    let packages = packages.collect::<Result<Vec<Package>>>()?;
    packages.iter().try_for_each(require_no_strays)?;
    Ok(packages)
}

fn metadata(root: &Path) -> Result<Metadata> {
    let arguments = ["metadata", "--no-deps", "--format-version", "1", "--locked"];
    let text = cargo_output(root, &arguments)?;
    serde_json::from_str(&text).map_err(|error| XtaskError::Cargo {
        command: arguments.join(" "),
        finding: error.to_string(),
    })
}

/// Unpacks the package of a member, as a registry's users do, replacing an older one.
fn unpack(folder: &Path, member: Member) -> Result<Package> {
    let stem = format!("{}-{}", member.name, member.version);
    let (path, unpacked) = (folder.join(format!("{stem}.crate")), folder.join(&stem));
    if unpacked.exists() {
        fs::remove_dir_all(&unpacked).map_err(XtaskError::io("remove", &unpacked))?;
    }
    let file = File::open(&path).map_err(XtaskError::io("open", &path))?;
    let bytes = file
        .metadata()
        .map_err(XtaskError::io("read", &path))?
        .len();
    let mut archive = Archive::new(GzDecoder::new(file));
    let (mut files, prefix) = (Vec::new(), Path::new(&stem));
    for entry in archive.entries().map_err(XtaskError::io("read", &path))? {
        let mut entry = entry.map_err(XtaskError::io("read", &path))?;
        let name = entry
            .path()
            .map_err(XtaskError::io("read", &path))?
            .into_owned();
        let inner = name
            .strip_prefix(prefix)
            .ok()
            .filter(|inner| is_below(inner));
        let Some(inner) = inner else {
            return Err(XtaskError::WrongContent {
                path,
                expected: format!("files in {stem}/"),
                found: name.display().to_string(),
            });
        };
        let mut content = Vec::new();
        entry
            .read_to_end(&mut content)
            .map_err(XtaskError::io("read", &path))?;
        let to = unpacked.join(inner);
        let parent = to.parent().unwrap_or(&unpacked);
        fs::create_dir_all(parent).map_err(XtaskError::io("create", parent))?;
        fs::write(&to, content).map_err(XtaskError::io("write", &to))?;
        files.push(inner.to_owned());
    }
    files.sort();
    Ok(Package {
        name: member.name,
        version: member.version,
        folder: unpacked,
        files,
        bytes,
    })
}

/// Returns whether a relative path stays below its folder.
fn is_below(path: &Path) -> bool {
    let mut parts = path.components();
    parts.clone().next().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
}

/// Checks that a package has the files that its users need, and no others.
fn require_no_strays(package: &Package) -> Result<()> {
    let wrong = |expected: &str, found: String| {
        Err(XtaskError::WrongContent {
            path: package.folder.clone(),
            expected: expected.to_owned(),
            found,
        })
    };
    if let Some(stray) = package.files.iter().find(|file| !is_expected(file)) {
        return wrong(
            "sources, examples, templates, presets, README.md and licences only; see `include` in its Cargo.toml",
            stray.display().to_string(),
        );
    }
    for needed in ["README.md", "LICENSE-APACHE", "LICENSE-MIT"] {
        if !package.files.iter().any(|file| file == Path::new(needed)) {
            return wrong(needed, "no such file in the package".to_owned());
        }
    }
    if package.bytes > MAX_PACKAGE_BYTES {
        return wrong("at most 1 MB", format!("{} bytes", package.bytes));
    }
    Ok(())
}

/// Returns whether a file belongs into a package.
fn is_expected(file: &Path) -> bool {
    let name = file.to_str().unwrap_or_default();
    let extension = file.extension().and_then(|extension| extension.to_str());
    let in_folder = FOLDERS.iter().any(|(folder, extensions)| {
        file.starts_with(folder)
            && extension.is_some_and(|extension| extensions.contains(&extension))
    });
    in_folder || TOP_FILES.contains(&name)
}

/// Compiles the packaged sources, and runs the projects in `tests/downstream` of the workspace at
/// `root` with them.
///
/// # Errors
/// When a package does not compile, or a project fails.
pub fn try_packages(root: &Path, packages: &[Package]) -> Result<()> {
    let Some(folder) = packages.first().and_then(|package| package.folder.parent()) else {
        return Ok(());
    };
    let profiles = profiles(root)?;
    let config = |name: &str, packages: Vec<&Package>| {
        let mut config = profiles.clone();
        config.extend(patches(&packages));
        write(folder, name, &config)
    };

    // A workspace of the packaged sources, with the workspace's own versions of dependencies.
    let members: Vec<String> = packages.iter().map(Package::path).collect();
    let workspace = Table::from_iter([
        ("resolver".to_owned(), "3".into()),
        ("members".to_owned(), members.into()),
    ]);
    let manifest = Table::from_iter([("workspace".to_owned(), workspace.into())]);
    let manifest = write(folder, "Cargo.toml", &manifest)?;
    let lock = folder.join("Cargo.lock");
    fs::copy(root.join("Cargo.lock"), &lock).map_err(XtaskError::io("write", &lock))?;
    let mut check = cargo();
    check
        .args(["check", "--workspace", "--lib", "--bins", "--examples"])
        .arg("--manifest-path")
        .arg(&manifest)
        .arg("--config")
        .arg(config("all.toml", packages.iter().collect())?);
    run(check)?;

    let downstream = root.join("tests/downstream");
    let lock = downstream.join("Cargo.lock");
    let locked = fs::read_to_string(&lock).map_err(XtaskError::io("read", &lock))?;
    // A patch that is not used would change the lock file.
    let is_used = |package: &&Package| locked.contains(&format!("name = \"{}\"", package.name));
    let config = config("downstream.toml", packages.iter().filter(is_used).collect())?;
    let manifest = downstream.join("Cargo.toml");
    for (project, verb) in PROJECTS {
        let mut command = cargo();
        command
            .args([verb, "--locked", "-p", project, "--manifest-path"])
            .arg(&manifest)
            .arg("--config")
            .arg(&config);
        run(command)?;
    }
    Ok(())
}

fn write(folder: &Path, name: &str, content: &Table) -> Result<PathBuf> {
    let path = folder.join(name);
    fs::write(&path, content.to_string()).map_err(XtaskError::io("write", &path))?;
    Ok(path)
}

/// Returns the configuration that replaces the registry's crates by packaged sources.
fn patches(packages: &[&Package]) -> Table {
    let patches = packages.iter().map(|package| {
        let path = Table::from_iter([("path".to_owned(), package.path().into())]);
        (package.name.clone(), path.into())
    });
    let registry = Table::from_iter([("crates-io".to_owned(), Value::Table(patches.collect()))]);
    Table::from_iter([("patch".to_owned(), registry.into())])
}

/// Returns the profiles of the workspace, so that dependencies that are compiled already serve the
/// packages too.
fn profiles(root: &Path) -> Result<Table> {
    let path = root.join("Cargo.toml");
    let text = fs::read_to_string(&path).map_err(XtaskError::io("read", &path))?;
    let wrong = |found: String| XtaskError::WrongContent {
        path: path.clone(),
        expected: "a manifest with profiles".to_owned(),
        found,
    };
    let mut manifest: Table = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let profiles = manifest.remove_entry("profile");
    let profiles = profiles.ok_or_else(|| wrong("no [profile]".to_owned()))?;
    Ok(Table::from_iter([profiles]))
}

fn run(mut command: Command) -> Result<()> {
    let failed = |command: &Command, finding: String| {
        let arguments = command
            .get_args()
            .map(|argument| argument.to_string_lossy());
        XtaskError::Cargo {
            command: arguments.collect::<Vec<_>>().join(" "),
            finding,
        }
    };
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(failed(&command, status.to_string())),
        Err(error) => Err(failed(&command, error.to_string())),
    }
}

/// Formats the number of files and the compressed size of packages.
pub fn table(packages: &[Package]) -> String {
    let mut table = comfy_table::Table::new();
    table
        .load_preset(presets::ASCII_MARKDOWN)
        .set_header(["package", "files", "compressed kB"]);
    for Package {
        name,
        version,
        files,
        bytes,
        ..
    } in packages
    {
        table.add_row([
            format!("{name} {version}"),
            files.len().to_string(),
            format!("{:.1}", *bytes as f64 / 1e3),
        ]);
    }
    for column in [1, 2] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_have_sources_and_no_strays() {
        for file in [
            "src/lib.rs",
            "src/cuda/kernels.cu",
            "README.md",
            "presets/keras.toml",
        ] {
            assert!(is_expected(Path::new(file)), "{file}");
        }
        for file in [
            "tests/gradients.rs",
            "src/golden.safetensors",
            "runs/a/config.json",
            "notes.md",
            "presets/mine.toml~",
        ] {
            assert!(!is_expected(Path::new(file)), "{file}");
        }
    }

    #[test]
    fn unpacked_files_stay_in_their_folder() {
        assert!(is_below(Path::new("src/lib.rs")));
        for path in ["", "/etc/passwd", "../lib.rs", "src/../../lib.rs"] {
            assert!(!is_below(Path::new(path)), "{path}");
        }
    }
}
