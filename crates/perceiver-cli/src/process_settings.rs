//! Settings of candle and of the C library that can only be made by the environment a program starts in.
//!
//! candle adds and multiplies large tensors on threads of its own, which spin for the next operation and so take the
//! cores from the threads that do the work: on two cores, training runs twice as fast without them, and many times as fast
//! when another program runs too. glibc gives large tensors back to the kernel as soon as they are freed, and the kernel
//! fills the next one's pages with zeros again.

/// Variables and their values; one that is set already is left alone.
#[cfg(unix)]
const SETTINGS: [(&str, &str); 4] = [
    ("CANDLE_NUM_THREADS", "1"),
    ("MALLOC_MMAP_MAX_", "0"),
    ("MALLOC_TRIM_THRESHOLD_", "1000000000000"),
    ("MALLOC_TOP_PAD_", "67108864"),
];

/// Starts this program over with the settings in place, unless they are. Returns when nothing needs to change, or when
/// starting over is impossible: the program is slower then, but right.
#[cfg(unix)]
pub fn apply() {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    let missing: Vec<_> = SETTINGS
        .into_iter()
        .filter(|(name, _)| std::env::var_os(name).is_none())
        .collect();
    if missing.is_empty() {
        return;
    }
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| program.clone().into());
    // `exec` replaces this process, its number and its open files staying; it comes back only when it fails.
    let error = Command::new(program)
        .arg0(name)
        .args(arguments)
        .envs(missing)
        .exec();
    eprintln!("warning: cannot restart with faster settings: {error}");
}

/// Other systems have no `exec`; set `CANDLE_NUM_THREADS=1` by hand there.
#[cfg(not(unix))]
pub fn apply() {}
