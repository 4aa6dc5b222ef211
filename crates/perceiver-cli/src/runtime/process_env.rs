//! Process-wide settings of candle, the C library and `gemm`, most of which can only be set through
//! the environment at startup.
//!
//! candle adds and multiplies large tensors on its own threads. These spin for the next operation
//! and so take cores from the threads that do the work: with another program running, training is
//! many times as fast without them. glibc returns large tensors to the kernel as soon as they are
//! freed, and the kernel zeroes the pages of the next one again. `gemm` packs an operand before it
//! multiplies more than some rows by it; at 128 rows, a block of attention queries, packing takes
//! longer than it saves.

/// The number of rows, in units of six, from which `gemm` packs an operand. Of 8 (its default), 24,
/// 40 and never, 24 was best: 3% of a batch.
const COPIED_FROM: usize = 24;

/// Variables and their values; a variable that is already set is left alone.
#[cfg(unix)]
const SETTINGS: [(&str, &str); 4] = [
    ("CANDLE_NUM_THREADS", "1"),
    ("MALLOC_MMAP_MAX_", "0"),
    ("MALLOC_TRIM_THRESHOLD_", "1000000000000"),
    ("MALLOC_TOP_PAD_", "67108864"),
];

/// The variables in which an MPI launcher gives the number of processes on this host.
#[cfg(unix)]
const SHARERS: [&str; 2] = ["OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"];

/// The variable that Open MPI sets if it has bound the process to cores.
#[cfg(unix)]
const BOUND: &str = "OMPI_MCA_orte_bound_at_launch";

/// Returns the threads of one of several processes on this host: its share of the cores, unless it
/// is bound to its own.
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

/// Re-executes this program with the settings in place, unless they are. Returns if nothing needs
/// to change, or if re-execution fails: the program is then slower, but correct.
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
    // `exec` replaces this process but keeps its PID and open files; it returns only on failure.
    let error = Command::new(program)
        .arg0(name)
        .args(arguments)
        .envs(missing)
        .exec();
    crate::ui::terminal::print_stderr(format_args!(
        "warning: cannot restart with faster settings: {error}"
    ));
}

/// Does nothing: other systems have no `exec`. Set `CANDLE_NUM_THREADS=1` by hand there.
#[cfg(not(unix))]
fn start_over() {}

/// Warns if more threads are requested than there are cores: they would wait for one another, and
/// the results do not depend on their number.
pub(crate) fn warn_of_threads() {
    let requested = std::env::var("RAYON_NUM_THREADS").ok();
    let cores = std::thread::available_parallelism().ok();
    let warning = cores.and_then(|cores| threads_warning(requested.as_deref()?, cores.get()));
    if let Some(warning) = warning.filter(|_| !crate::runtime::mpi_job::is_nonzero_rank()) {
        tracing::warn!("{warning}");
    }
}

/// Describes what is wrong with a number of threads.
fn threads_warning(requested: &str, cores: usize) -> Option<String> {
    match requested.trim().parse::<usize>() {
        Ok(threads) if threads > cores => Some(format!(
            "RAYON_NUM_THREADS={threads}: more threads than the {cores} cores here are slower, and results do not depend on \
             their number"
        )),
        Ok(_) => None,
        Err(_) if requested.is_empty() => None,
        Err(_) => Some(format!(
            "RAYON_NUM_THREADS={requested:?}: expected a number of threads; using all {cores} cores"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_threads_than_cores_are_a_warning() {
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
