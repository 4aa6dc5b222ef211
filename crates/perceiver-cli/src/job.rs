//! The job that this process is part of: several that `mpirun` has started, or it alone.

use std::env;
use std::sync::Arc;

use anyhow::Result;
use perceiver_train::{Alone, DeviceChoice, Ranks, Workplace};

/// By what MPI's starters tell a process which it is, and how many there are: Open MPI's `mpirun`, and `srun` by way of PMI or `PMIx`,
/// which does not tell the number. SLURM's own variables are also those of a batch script, which is no rank.
const RANKS: [&str; 3] = ["OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"];
const SIZES: [&str; 2] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"];

/// By what they tell a process how many of its host's are before it.
const LOCAL_RANKS: [&str; 3] = [
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "SLURM_LOCALID",
];

/// A process among those that a starter of MPI has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Started {
    rank: usize,
    /// How many there are, where that is told.
    size: Option<usize>,
    /// How many on this host are before it.
    local: usize,
}

impl Started {
    /// What the environment says; none where this process was started alone.
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

/// Where this rank computes: of the GPUs of a host, each of its ranks has one.
pub(crate) fn workplace(device: DeviceChoice, ranks: &Arc<dyn Ranks>) -> Result<Workplace> {
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
        return Ok(Workplace { device, ranks });
    }
    Ok(Workplace { device, ranks })
}

/// Whether the first process of the job talks for this one.
pub(crate) fn is_spoken_for() -> bool {
    Started::here().is_some_and(|started| started.rank > 0)
}

/// The processes that train together.
pub(crate) struct Job {
    pub(crate) ranks: Arc<dyn Ranks>,
    #[cfg(feature = "mpi")]
    mpi: Option<perceiver_train::MpiJob>,
}

#[cfg(feature = "mpi")]
impl Job {
    /// Joins the job that this process was started for. A panic ends all of it from now on.
    pub(crate) fn join() -> Result<Self> {
        if Started::here().is_none() {
            let (ranks, mpi) = (Arc::new(Alone), None);
            return Ok(Self { ranks, mpi });
        }
        let mpi = perceiver_train::MpiJob::join()?;
        let ranks = mpi.ranks();
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            before(panic);
            let ranks = perceiver_train::MpiRanks::clone(&ranks);
            crate::terminal::say(format_args!("error: {} has panicked", name(&ranks)));
            ranks.abort(1);
        }));
        Ok(Self {
            ranks: Arc::new(mpi.ranks()),
            mpi: Some(mpi),
        })
    }

    /// Ends the whole job if this process failed: the others would wait for it. Says who failed, and how to go on.
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
            ranks.wait_for_the_end(); // the first says it
        }
        let line = crate::in_one_line(error);
        let who = if all_know {
            String::new()
        } else {
            format!("{}: ", name(&*self.ranks))
        };
        crate::terminal::say(format_args!("error: {who}{line}"));
        if let Some(resume) = resume.filter(|_| !all_know) {
            crate::terminal::say(format_args!(
                "go on from what was saved last with: mpirun ... {resume}"
            ));
        }
        ranks.abort(1)
    }
}

#[cfg(feature = "mpi")]
fn name(ranks: &dyn Ranks) -> String {
    format!(
        "rank {} of {} on {}",
        ranks.rank(),
        ranks.size(),
        ranks.host()
    )
}

#[cfg(not(feature = "mpi"))]
impl Job {
    /// This process alone, which it has to be.
    pub(crate) fn join() -> Result<Self> {
        if let Some(Started { rank, size, .. }) = Started::here()
            && (rank > 0 || size.is_some_and(|size| size > 1))
        {
            anyhow::bail!(
                "started as rank {rank} of several processes, but this build has no MPI: build it with --features mpi, or start it alone"
            );
        }
        let ranks = Arc::new(Alone);
        Ok(Self { ranks })
    }

    /// Nobody else has to be told of a failure.
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
            let found = variables.find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_string())
        })
    }

    #[test]
    fn a_rank_is_told_from_a_batch_script() {
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
