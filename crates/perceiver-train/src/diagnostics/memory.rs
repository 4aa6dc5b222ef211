//! Memory use and memory limit of this process, on Linux.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the peak memory of this process, in bytes.
pub fn peak_memory_bytes() -> Option<u64> {
    of_process("VmHWM:")
}

/// Returns the current memory of this process, in bytes.
pub(crate) fn memory_bytes() -> Option<u64> {
    of_process("VmRSS:")
}

/// Returns the memory limit of this process, in bytes: the machine's memory and swap, or less if a
/// control group or `ulimit -v` sets a lower limit. None if the system does not report it.
pub fn memory_limit_bytes() -> Option<u64> {
    let limits = [of_machine(), of_control_group(), of_address_space()];
    limits.into_iter().flatten().min()
}

fn of_process(field: &str) -> Option<u64> {
    kibibytes(&fs::read_to_string("/proc/self/status").ok()?, field)
}

fn of_machine() -> Option<u64> {
    let all = fs::read_to_string("/proc/meminfo").ok()?;
    let memory = kibibytes(&all, "MemTotal:")?;
    Some(memory.saturating_add(kibibytes(&all, "SwapTotal:").unwrap_or(0)))
}

/// Parses a `/proc` field in kibibytes and returns bytes.
fn kibibytes(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// Returns the lowest memory limit of the control groups of this process (version 1 or 2).
fn of_control_group() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    limit_files(&groups)
        .iter()
        .filter_map(|file| limit_in(&fs::read_to_string(file).ok()?))
        .min()
}

/// Returns the paths of the limit files of the control groups in `/proc/self/cgroup` and of their
/// parents.
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|one| one == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let path = Path::new(path.trim_start_matches('/'));
        files.extend(
            path.ancestors()
                .map(|group| Path::new(root).join(group).join(file)),
        );
    }
    files
}

/// Parses a limit in bytes; none for `max`.
fn limit_in(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// Returns the limit of `ulimit -v`.
fn of_address_space() -> Option<u64> {
    soft_limit(&fs::read_to_string("/proc/self/limits").ok()?)
}

fn soft_limit(limits: &str) -> Option<u64> {
    let mut lines = limits.lines();
    let line = lines.find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok() // none for `unlimited`
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn peak_memory_includes_touched_pages() {
        let before = peak_memory_bytes().unwrap();
        let touched = vec![1u8; 64 << 20];
        assert!(peak_memory_bytes().unwrap() >= before.max(touched.len() as u64));
        assert!(memory_bytes().unwrap() > 64 << 20);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_limit_exceeds_current_use() {
        assert!(memory_limit_bytes().unwrap() > memory_bytes().unwrap());
    }

    #[test]
    fn every_format_of_limits_is_parsed() {
        let both = "12:cpu,memory:/a/b\n3:pids:/a\n0::/user/x\n";
        let files: Vec<String> = limit_files(both)
            .iter()
            .map(|file| file.display().to_string())
            .collect();
        let expected = [
            "/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/a/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/user/x/memory.max",
            "/sys/fs/cgroup/user/memory.max",
            "/sys/fs/cgroup/memory.max",
        ];
        assert_eq!(files, expected);
        assert_eq!([limit_in("max\n"), limit_in("4096\n")], [None, Some(4096)]);
        let limits = |soft: &str| {
            format!("Limit  Soft Limit\nMax address space         {soft}   unlimited   bytes\n")
        };
        assert_eq!(soft_limit(&limits("8192000000")), Some(8_192_000_000));
        assert_eq!(soft_limit(&limits("unlimited")), None);
        assert_eq!(
            kibibytes("MemTotal:  4 kB\nSwapTotal: 1 kB", "SwapTotal:"),
            Some(1024)
        );
    }
}
