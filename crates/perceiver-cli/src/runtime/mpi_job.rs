//! The MPI job that this process is part of, if any.

use std::env;
use std::sync::Arc;

use anyhow::Result;
use perceiver_train::{Communicator, DeviceChoice, Placement, SingleProcess};

/// The variables for rank and size that MPI launchers set: Open MPI's `mpirun`, and `srun` through
/// PMI or `PMIx`, which does not set the size. SLURM's own variables are also set in a batch
/// script, which is not a rank.
const RANKS: [&str; 3] = ["OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"];
const SIZES: [&str; 2] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"];

/// The variables for the rank on the host.
const LOCAL_RANKS: [&str; 3] = [
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "SLURM_LOCALID",
];

/// A process started by an MPI launcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Started {
    rank: usize,
    /// The number of processes, if known.
    size: Option<usize>,
    /// The rank on this host.
    local: usize,
}

impl Started {
    /// Reads the environment; `None` if this process was not started by a launcher.
    fn here() -> Option<Self> {
        Self::by(|name| env::var(name).ok())
    }

    fn by(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let number = |names: &[&str]| {
            let mut values = names.iter().filter_map(|name| variable(name));
            values.find_map(|value| value.parse().ok())
        };
        let rank = number(&RANKS)?;
        Some(Self {
            rank,
            size: number(&SIZES),
            local: number(&LOCAL_RANKS).unwrap_or(0),
        })
    }
}

/// Opens the device of this rank: each rank on a host gets its own GPU.
pub(crate) fn placement(device: DeviceChoice, ranks: &Arc<dyn Communicator>) -> Result<Placement> {
    let local = Started::here().map_or(0, |started| started.local);
    let device = if ranks.size() > 1 {
        device.open_for(local)?
    } else {
        device.open()?
    };
    let ranks = Arc::clone(ranks);
    #[cfg(feature = "nccl")]
    if let candle_core::Device::Cuda(gpu) = &device
        && ranks.size() > 1
    {
        let ranks = Arc::new(perceiver_train::NcclRanks::join(ranks, gpu)?);
        return Ok(Placement { device, ranks });
    }
    Ok(Placement { device, ranks })
}

/// Whether the first process of the job prints for this one.
pub(crate) fn is_nonzero_rank() -> bool {
    Started::here().is_some_and(|started| started.rank > 0)
}

/// The processes that train together.
pub(crate) struct Job {
    pub(crate) ranks: Arc<dyn Communicator>,
    #[cfg(feature = "mpi")]
    mpi: Option<perceiver_train::MpiJob>,
}

#[cfg(feature = "mpi")]
impl Job {
    /// Joins the MPI job of this process, if any. A panic then aborts the whole job.
    pub(crate) fn join() -> Result<Self> {
        if Started::here().is_none() {
            let (ranks, mpi) = (Arc::new(SingleProcess), None);
            return Ok(Self { ranks, mpi });
        }
        let mpi = perceiver_train::MpiJob::join()?;
        let ranks = mpi.ranks();
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            before(panic);
            let ranks = perceiver_train::MpiRanks::clone(&ranks);
            crate::ui::terminal::print_stderr(format_args!("error: {} has panicked", name(&ranks)));
            ranks.abort(1);
        }));
        Ok(Self {
            ranks: Arc::new(mpi.ranks()),
            mpi: Some(mpi),
        })
    }

    /// Aborts the whole job if this process failed, as the others would wait for it. Prints which
    /// rank failed, and how to resume.
    pub(crate) fn end<T>(self, outcome: Result<T>, resume: Option<&str>) -> Result<T> {
        let (Err(error), Some(mpi)) = (&outcome, &self.mpi) else {
            return outcome;
        };
        if self.ranks.size() == 1 {
            return outcome;
        }
        let known = error.downcast_ref::<perceiver_train::TrainError>();
        let all_know = matches!(known, Some(perceiver_train::TrainError::OtherRank { .. }));
        let ranks = mpi.ranks();
        if all_know && !self.ranks.is_first() {
            ranks.wait_for_the_end(); // the first rank reports it
        }
        let line = crate::in_one_line(error);
        let who = if all_know {
            String::new()
        } else {
            format!("{}: ", name(&*self.ranks))
        };
        crate::ui::terminal::print_stderr(format_args!("error: {who}{line}"));
        if let Some(resume) = resume.filter(|_| !all_know) {
            crate::ui::terminal::print_stderr(format_args!(
                "resume from the last saved state with: mpirun ... {resume}"
            ));
        }
        ranks.abort(1)
    }
}

#[cfg(feature = "mpi")]
fn name(ranks: &dyn Communicator) -> String {
    format!(
        "rank {} of {} on {}",
        ranks.rank(),
        ranks.size(),
        ranks.host()
    )
}

#[cfg(not(feature = "mpi"))]
impl Job {
    /// Returns a single process, or an error if there are several.
    pub(crate) fn join() -> Result<Self> {
        if let Some(Started { rank, size, .. }) = Started::here()
            && (rank > 0 || size.is_some_and(|size| size > 1))
        {
            anyhow::bail!(
                "started as rank {rank} of several processes, but this build has no MPI: build it with --features mpi, or start a single process"
            );
        }
        let ranks = Arc::new(SingleProcess);
        Ok(Self { ranks })
    }

    /// Returns the outcome: there are no other processes.
    pub(crate) fn end<T>(self, outcome: Result<T>, _resume: Option<&str>) -> Result<T> {
        drop(self);
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(variables: &[(&str, &str)]) -> Option<Started> {
        Started::by(|name| {
            let mut variables = variables.iter();
            let entry = variables.find(|(variable, _)| *variable == name);
            entry.map(|(_, value)| (*value).to_string())
        })
    }

    #[test]
    fn ranks_are_distinguished_from_batch_scripts() {
        let mpirun = [
            ("OMPI_COMM_WORLD_RANK", "3"),
            ("OMPI_COMM_WORLD_SIZE", "4"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
            ("PMIX_RANK", "3"),
        ];
        let (rank, size, local) = (3, Some(4), 1);
        assert_eq!(started(&mpirun), Some(Started { rank, size, local }));
        let hydra = [
            ("PMI_RANK", "3"),
            ("PMI_SIZE", "4"),
            ("MPI_LOCALRANKID", "1"),
        ];
        assert_eq!(started(&hydra), Some(Started { rank, size, local }));
        let srun = [
            ("PMIX_RANK", "3"),
            ("SLURM_PROCID", "3"),
            ("SLURM_LOCALID", "1"),
        ];
        let size = None;
        assert_eq!(started(&srun), Some(Started { rank, size, local }));
        let script = [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")];
        assert_eq!(started(&script), None);
        assert_eq!(started(&[]), None);
    }
}
