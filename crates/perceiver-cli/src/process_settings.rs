//! Settings of candle, of the C library and of `gemm` that hold for a whole process, most of which can only be made by the
//! environment it starts in.
//!
//! candle adds and multiplies large tensors on threads of its own, which spin for the next operation and so take the
//! cores from the threads that do the work: beside another program, training runs many times as fast without them.
//! glibc gives large tensors back to the kernel as soon as they are freed, and the kernel fills the next one's pages with
//! zeros again. `gemm` copies an operand together before it multiplies more than some rows by it; with 128 rows, a block
//! of attention's queries, that takes longer than it saves.

/// Rows, in sixes, from which on `gemm` copies an operand. Of 8, its own number, 24, 40 and never, 24 was best: 3% of a batch.
const COPIED_FROM: usize = 24;

/// Variables and their values; one that is set already is left alone.
#[cfg(unix)]
const SETTINGS: [(&str, &str); 4] = [
    ("CANDLE_NUM_THREADS", "1"),
    ("MALLOC_MMAP_MAX_", "0"),
    ("MALLOC_TRIM_THRESHOLD_", "1000000000000"),
    ("MALLOC_TOP_PAD_", "67108864"),
];

/// How many processes of an MPI job share this machine, by what its starter tells them.
#[cfg(unix)]
const SHARERS: [&str; 2] = ["OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"];

/// What Open MPI tells a process that it has bound to cores of its own.
#[cfg(unix)]
const BOUND: &str = "OMPI_MCA_orte_bound_at_launch";

/// The threads of one of several processes on this machine: its share of the cores, unless those it may use are its own.
#[cfg(unix)]
fn shared_threads() -> Option<(&'static str, String)> {
    if std::env::var_os(BOUND).is_some() {
        return None;
    }
    let mut sharers = SHARERS.iter().filter_map(|name| std::env::var(name).ok());
    let sharers: usize = sharers.find_map(|value| value.parse().ok())?;
    let cores = std::thread::available_parallelism().ok()?.get();
    Some((
        "RAYON_NUM_THREADS",
        (cores / sharers.max(1)).max(1).to_string(),
    ))
    .filter(|_| sharers > 1)
}

/// Starts this program over with the settings in place, unless they are. Returns when nothing needs to change, or when
/// starting over is impossible: the program is slower then, but right.
pub fn apply() {
    start_over();
    gemm::set_lhs_packing_threshold_single_thread(COPIED_FROM);
}

#[cfg(unix)]
fn start_over() {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    let missing: Vec<_> = SETTINGS
        .into_iter()
        .map(|(name, value)| (name, value.to_string()))
        .chain(shared_threads())
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
    crate::terminal::say(format_args!(
        "warning: cannot restart with faster settings: {error}"
    ));
}

/// Other systems have no `exec`; set `CANDLE_NUM_THREADS=1` by hand there.
#[cfg(not(unix))]
fn start_over() {}

/// Says so where more threads are asked for than there are cores: they would wait for one another, and results are the same with any
/// number.
pub(crate) fn warn_of_threads() {
    let asked = std::env::var("RAYON_NUM_THREADS").ok();
    let cores = std::thread::available_parallelism().ok();
    let warning = cores.and_then(|cores| threads_warning(asked.as_deref()?, cores.get()));
    if let Some(warning) = warning.filter(|_| !crate::job::is_spoken_for()) {
        tracing::warn!("{warning}");
    }
}

/// What is wrong with a number of threads.
fn threads_warning(asked: &str, cores: usize) -> Option<String> {
    match asked.trim().parse::<usize>() {
        Ok(threads) if threads > cores => Some(format!(
            "RAYON_NUM_THREADS={threads}: more threads than the {cores} cores here make everything slower, and results are the \
             same with any number"
        )),
        Ok(_) => None,
        Err(_) if asked.is_empty() => None,
        Err(_) => Some(format!(
            "RAYON_NUM_THREADS={asked:?}: expected a number of threads; taking all {cores} cores"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_threads_than_cores_are_warned_of() {
        for fine in ["", "0", "1", "8"] {
            assert_eq!(threads_warning(fine, 8), None, "{fine:?}");
        }
        let warning = threads_warning("1000", 8).unwrap();
        assert!(warning.contains("1000: more threads than the 8 cores"));
        assert!(
            threads_warning("all", 8)
                .unwrap()
                .contains("expected a number")
        );
    }
}
