//! The cost of a build: how many packages the README's first command compiles, which of them twice,
//! and the CPU seconds of each.
//!
//! Packages and features come from `cargo tree`, which compiles nothing. CPU seconds come from a
//! build into an empty target directory with this program as the compiler wrapper
//! (`RUSTC_WRAPPER`): it runs the compiler and records its time.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use comfy_table::{CellAlignment, Table, presets};
use serde::Deserialize;

use crate::cargo::{cargo, cargo_output};
use crate::error::{Result, XtaskError};

/// The environment variable that makes this program time a compiler: the path of the log of times.
pub const LOG: &str = "PERCEIVER_BUILD_COST_LOG";

/// The arguments of `cargo tree` and `cargo build` for the README's first command.
const FIRST: [&str; 2] = ["--package", "perceiver-cli"];

/// The packages that the README's two commands build, as listed by `cargo tree`.
#[derive(Debug, Default)]
pub struct Graph {
    /// Name and version of every package of the first command.
    packages: BTreeSet<(String, String)>,
    /// Packages with features of the first command that the second command builds differently.
    built_twice: BTreeSet<String>,
}

/// The limits of a build, from `xtask/build-budget.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// The number of packages of the first command.
    pub packages: usize,
    /// The number of packages that it compiles in several versions.
    pub several_versions: usize,
    /// The packages that the second command compiles again with other features: our own that read
    /// the Hub.
    pub built_twice: Vec<String>,
}

impl Budget {
    /// Reads the budget.
    ///
    /// # Errors
    /// When the file cannot be read or parsed.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(XtaskError::io("read", path))?;
        toml::from_str(&text).map_err(|error| XtaskError::WrongContent {
            path: path.to_owned(),
            expected: "packages, several_versions and built_twice".to_owned(),
            found: error.to_string(),
        })
    }
}

impl Graph {
    /// Runs `cargo tree` for the two commands in the workspace at `root`.
    ///
    /// # Errors
    /// When cargo fails.
    pub fn read(root: &Path) -> Result<Self> {
        let first = tree(root, &[&FIRST[..], &["--edges", "normal,build"]].concat())?;
        let second = tree(root, &["--workspace", "--edges", "normal,build,dev"])?;
        Ok(Self::of(&first, &second))
    }

    fn of(first: &str, second: &str) -> Self {
        let units = |text: &str| -> BTreeSet<String> {
            text.lines()
                .map(|line| line.trim_end_matches("(*)").trim().to_owned())
                .filter(|line| !line.is_empty())
                .collect()
        };
        let (first, second) = (units(first), units(second));
        let name_and_version = |unit: &String| {
            let mut fields = unit.split_whitespace().map(str::to_owned);
            Some((fields.next()?, fields.next()?))
        };
        let name = |unit: &String| unit.split_whitespace().next().map(str::to_owned);
        Self {
            packages: first.iter().filter_map(name_and_version).collect(),
            built_twice: first.difference(&second).filter_map(name).collect(),
        }
    }

    /// Returns the packages with several versions.
    fn several_versions(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, version) in &self.packages {
            versions.entry(name).or_default().push(version);
        }
        versions.retain(|_, versions| versions.len() > 1);
        versions
    }

    /// Formats the counts in a few lines.
    pub fn summary(&self) -> String {
        let several: Vec<String> = self
            .several_versions()
            .into_iter()
            .map(|(name, versions)| format!("{name} {}", versions.join(", ")))
            .collect();
        let twice: Vec<&str> = self.built_twice.iter().map(String::as_str).collect();
        format!(
            "packages of `cargo run -p perceiver-cli`: {}\nin several versions: {}: {}\nbuilt again by `cargo test --workspace`, with other features: {}",
            self.packages.len(),
            several.len(),
            several.join("; "),
            twice.join(", ")
        )
    }

    /// Checks the counts against a budget.
    ///
    /// # Errors
    /// [`XtaskError::OverBudget`] with every excess.
    pub fn require(&self, budget: &Budget) -> Result<()> {
        let mut findings = Vec::new();
        let mut at_most = |what: &str, count: usize, budget: usize| {
            if count > budget {
                findings.push(format!("{count} {what}, expected at most {budget}"));
            }
        };
        at_most("packages", self.packages.len(), budget.packages);
        at_most(
            "packages in several versions",
            self.several_versions().len(),
            budget.several_versions,
        );
        let others = self.built_twice.iter();
        for name in others.filter(|name| !budget.built_twice.contains(name)) {
            findings.push(format!(
                "`cargo test --workspace` builds {name} again with other features"
            ));
        }
        if findings.is_empty() {
            return Ok(());
        }
        Err(XtaskError::OverBudget {
            finding: findings.join("; "),
        })
    }
}

/// Runs `cargo tree` with package, version and features per line.
fn tree(root: &Path, arguments: &[&str]) -> Result<String> {
    let lines = [
        "tree", "--locked", "--prefix", "none", "--format", "{p} {f}",
    ];
    cargo_output(root, &[&lines[..], arguments].concat())
}

/// The CPU seconds of a build.
#[derive(Debug)]
pub struct Costs {
    /// The compiler's, by package.
    by_package: BTreeMap<String, f64>,
    /// The total, including build scripts and their children.
    total: f64,
}

/// Builds the first command in an empty target directory and measures it.
///
/// # Errors
/// When the build fails, or its times cannot be written or read.
pub fn measure(root: &Path) -> Result<Costs> {
    let target = root.join("target").join("build-cost");
    if target.exists() {
        fs::remove_dir_all(&target).map_err(XtaskError::io("remove", &target))?;
    }
    fs::create_dir_all(&target).map_err(XtaskError::io("create", &target))?;
    let log = target.join("compiler-times.txt");
    let wrapper = std::env::current_exe().map_err(XtaskError::io("find", "this program"))?;
    let before = children_seconds();
    let clock = Instant::now();
    let status = cargo()
        .current_dir(root)
        .args(["build", "--locked"])
        .args(FIRST)
        .env("CARGO_TARGET_DIR", &target)
        .env("RUSTC_WRAPPER", wrapper)
        .env(LOG, &log)
        .status()
        .map_err(XtaskError::io("start", "cargo"))?;
    if !status.success() {
        return Err(XtaskError::Cargo {
            command: format!("build {}", FIRST.join(" ")),
            finding: status.to_string(),
        });
    }
    let total = match (before, children_seconds()) {
        (Some(before), Some(after)) => after - before,
        _ => clock.elapsed().as_secs_f64(),
    };
    let text = fs::read_to_string(&log).map_err(XtaskError::io("read", &log))?;
    fs::remove_dir_all(&target).map_err(XtaskError::io("remove", &target))?;
    Ok(Costs {
        by_package: by_package(&text),
        total,
    })
}

/// Sums lines of `package seconds`.
fn by_package(text: &str) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for line in text.lines() {
        if let Some((package, seconds)) = line.rsplit_once(' ')
            && let Ok(seconds) = seconds.parse::<f64>()
        {
            *sums.entry(package.to_owned()).or_default() += seconds;
        }
    }
    sums
}

impl Costs {
    /// Formats the most expensive packages and the total.
    pub fn table(&self, rows: usize) -> String {
        let mut packages: Vec<(&str, f64)> = self
            .by_package
            .iter()
            .map(|(name, &seconds)| (name.as_str(), seconds))
            .collect();
        packages.sort_by(|a, b| b.1.total_cmp(&a.1));
        let compiled: f64 = packages.iter().map(|package| package.1).sum();
        let rest: f64 = packages.iter().skip(rows).map(|package| package.1).sum();
        packages.truncate(rows);

        let mut table = Table::new();
        table
            .load_preset(presets::ASCII_MARKDOWN)
            .set_header(["package", "CPU seconds"]);
        let others = format!("{} others", self.by_package.len() - packages.len());
        let scripts = (self.total - compiled).max(0.0);
        let sums = [
            (others.as_str(), rest),
            ("build scripts and cargo itself", scripts),
            ("all", self.total),
        ];
        for (name, seconds) in packages.into_iter().chain(sums) {
            table.add_row([name.to_owned(), format!("{seconds:.1}")]);
        }
        if let Some(column) = table.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    }
}

/// Runs the compiler in this process's arguments, as cargo passed it, and records its time in
/// `log`.
///
/// # Errors
/// When it cannot be started, or the time cannot be recorded.
pub fn time_compiler(log: &Path) -> Result<i32> {
    let mut arguments = std::env::args_os().skip(1);
    let compiler = arguments.next().unwrap_or_else(|| OsString::from("rustc"));
    let clock = Instant::now();
    let status = Command::new(&compiler)
        .args(arguments)
        .env_remove(LOG)
        .status()
        .map_err(XtaskError::io("start", PathBuf::from(&compiler)))?;
    let seconds = children_seconds().unwrap_or_else(|| clock.elapsed().as_secs_f64());
    if let (Ok(name), Ok(version)) = (
        std::env::var("CARGO_PKG_NAME"),
        std::env::var("CARGO_PKG_VERSION"),
    ) {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .map_err(XtaskError::io("open", log))?;
        // A single write per line, because compilers run in parallel.
        file.write_all(format!("{name} {version} {seconds:.2}\n").as_bytes())
            .map_err(XtaskError::io("write", log))?;
    }
    Ok(status.code().unwrap_or(1))
}

/// Returns the user and system seconds of the children that this process has waited for, if the
/// system reports them (Linux).
fn children_seconds() -> Option<f64> {
    parse_children_seconds(&fs::read_to_string("/proc/self/stat").ok()?)
}

/// Parses `cutime` and `cstime` of `proc_pid_stat(5)`, in ticks of 10 ms.
fn parse_children_seconds(stat: &str) -> Option<f64> {
    // The program's name is in parentheses and may contain spaces.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut ticks = fields.split(' ').skip(13);
    let user: f64 = ticks.next()?.parse().ok()?;
    let system: f64 = ticks.next()?.parse().ok()?;
    Some((user + system) / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST_TREE: &str = "perceiver-cli v0.1.0 (/w) default
serde v1.0.0 default,std
syn v2.0.0 full
syn v3.0.0 full
serde v1.0.0 default,std (*)
";

    #[test]
    fn packages_versions_and_other_features_are_counted() {
        let second = FIRST_TREE.replace("serde v1.0.0 default,std", "serde v1.0.0 std");
        let graph = Graph::of(FIRST_TREE, &second);
        assert_eq!(graph.packages.len(), 4);
        assert_eq!(
            graph.several_versions().keys().collect::<Vec<_>>(),
            [&"syn"]
        );
        assert_eq!(graph.built_twice, BTreeSet::from(["serde".to_owned()]));
    }

    #[test]
    fn a_build_over_budget_is_rejected_with_every_excess() {
        let budget = |packages, several_versions, built_twice: &[&str]| Budget {
            packages,
            several_versions,
            built_twice: built_twice.iter().map(ToString::to_string).collect(),
        };
        let graph = Graph::of(FIRST_TREE, "");
        let all = ["perceiver-cli", "serde", "syn"];
        graph.require(&budget(4, 1, &all)).unwrap();
        let error = graph
            .require(&budget(3, 0, &all[..2]))
            .unwrap_err()
            .to_string();
        for finding in [
            "4 packages, expected at most 3",
            "1 packages in several",
            "builds syn again",
        ] {
            assert!(error.contains(finding), "{error}");
        }
    }

    #[test]
    fn times_are_summed_by_package() {
        let sums = by_package("syn 2.0.0 1.5\nserde 1.0.0 2.00\nsyn 2.0.0 0.25\n");
        assert!((sums["syn 2.0.0"] - 1.75).abs() < 1e-9);
        let costs = Costs {
            by_package: sums,
            total: 5.0,
        };
        let table = costs.table(1);
        for row in [
            "serde 1.0.0",
            "1 others",
            "build scripts and cargo itself",
            "all",
        ] {
            assert!(table.contains(row), "{table}");
        }
    }

    #[test]
    fn cpu_time_is_parsed_after_any_program_name() {
        let stat = "7 (a) b) R 1 2 3 4 5 6 7 8 9 10 11 12 150 25 20 0 1";
        assert_eq!(parse_children_seconds(stat), Some(1.75));
        assert_eq!(parse_children_seconds("nonsense"), None);
    }
}
