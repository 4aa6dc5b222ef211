//! How much memory this process has, as Linux tells it; other systems are not asked.

/// The most memory this process had at once, in bytes.
pub fn peak_memory_bytes() -> Option<u64> {
    of_status("VmHWM:")
}

/// The memory this process has now, in bytes.
pub(crate) fn memory_bytes() -> Option<u64> {
    of_status("VmRSS:")
}

fn of_status(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_peak_has_seen_what_was_touched() {
        let before = peak_memory_bytes().unwrap();
        let touched = vec![1u8; 64 << 20];
        assert!(peak_memory_bytes().unwrap() >= before.max(touched.len() as u64));
        assert!(memory_bytes().unwrap() > 64 << 20);
    }
}
