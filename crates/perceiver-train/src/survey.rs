//! The survey of shards, shared out between ranks.

use perceiver_data::{LoadOptions, Streamed, Survey};

use crate::error::{Result, TrainError};
use crate::ranks::Ranks;

/// The pictures without those that are broken, and what else was found in a pass through all of them, of which each rank has taken a part.
///
/// # Errors
/// When a shard cannot be read, no picture of a class can be, or a rank has gone.
pub(crate) fn surveyed(
    pictures: Streamed,
    options: &LoadOptions,
    ranks: &dyn Ranks,
) -> Result<(Streamed, Survey)> {
    let mine = Survey::of(&pictures, ranks.part(), options.broken, &options.watcher)?;
    let unreadable = |error: serde_json::Error| TrainError::Ranks {
        rank: ranks.rank(),
        size: ranks.size(),
        finding: format!("what another rank has found in the shards cannot be read: {error}"),
    };
    let mut all = Survey::default();
    for rank in 0..ranks.size() {
        let mut told = serde_json::to_vec(&mine).map_err(unreadable)?;
        ranks.broadcast(rank, &mut told)?;
        all.join(serde_json::from_slice(&told).map_err(unreadable)?);
    }
    Ok((pictures.surveyed(&all)?, all))
}
