//! Surveys shards before training, divided between ranks, and caches the result in the run
//! directory.

use std::path::Path;

use perceiver_data::{BrokenImages, LoadOptions, ShardFile, ShardedDataset, Survey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::distributed::Communicator;
use crate::error::{Result, TrainError};
use crate::run::json_file;

/// The surveys of a run's shards.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Surveys(Vec<CachedSurvey>);

/// A survey, and what it is valid for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct CachedSurvey {
    files: Vec<ShardFile>,
    pictures: usize,
    shorter_side: usize,
    broken: BrokenImages,
    survey: Survey,
}

impl Surveys {
    /// Reads the surveys kept at `path`. Returns none if the file is missing or not ours: surveys
    /// can be made again.
    pub fn read(path: &Path) -> Self {
        json_file::read(path, "the shard surveys of a run").unwrap_or_default()
    }

    /// Writes the surveys to `path`, if there are any.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        json_file::write(path, self)
    }

    /// Returns the shards without unreadable images, and the survey. The survey is reused if one
    /// exists and the files have not changed since. Otherwise each rank surveys its part; all ranks
    /// have to call this.
    ///
    /// # Errors
    /// When a shard cannot be read, a class has no readable image, or a rank has gone.
    pub(crate) fn surveyed(
        &mut self,
        dataset: ShardedDataset,
        options: &LoadOptions,
        ranks: &dyn Communicator,
    ) -> Result<(ShardedDataset, Survey)> {
        let mut wanted = CachedSurvey {
            files: dataset.files()?,
            pictures: dataset.len(),
            shorter_side: options.shorter_side,
            broken: options.broken,
            survey: Survey::default(),
        };
        // Rank 0 decides for all: another host may report other modification times.
        let known = self.0.iter().find(|cached| cached.is_of(&wanted));
        let known: Option<Survey> = broadcast_from(0, known.map(|cached| &cached.survey), ranks)?;
        let survey = if let Some(known) = known {
            known
        } else {
            let mine = Survey::of(&dataset, ranks.part(), options.broken, &options.watcher)?;
            let mut all = Survey::default();
            for rank in 0..ranks.size() {
                all.join(broadcast_from(rank, &mine, ranks)?);
            }
            all
        };
        wanted.survey = survey.clone();
        self.0.retain(|cached| !cached.is_of(&wanted));
        self.0.push(wanted);
        Ok((dataset.surveyed(&survey)?, survey))
    }
}

impl CachedSurvey {
    fn is_of(&self, other: &Self) -> bool {
        self.files == other.files
            && self.pictures == other.pictures
            && self.shorter_side == other.shorter_side
            && self.broken == other.broken
    }
}

/// Broadcasts a value from `rank` to all ranks.
fn broadcast_from<T: DeserializeOwned>(
    rank: usize,
    mine: impl Serialize,
    ranks: &dyn Communicator,
) -> Result<T> {
    let failed = |error: serde_json::Error| TrainError::Communicator {
        rank: ranks.rank(),
        size: ranks.size(),
        finding: format!("cannot read the shard survey of rank {rank}: {error}"),
    };
    let mut text = serde_json::to_vec(&mine).map_err(failed)?;
    ranks.broadcast(rank, &mut text)?;
    serde_json::from_slice(&text).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use perceiver_data::{Image, ProgressCallback, ShardFolder, ShardWriter, Split};

    use super::*;
    use crate::distributed::SingleProcess;

    fn write(root: &Path, count: u8) {
        for split in [Split::Train, Split::Test] {
            let mut writer = ShardWriter::new(root, split, 100);
            for number in 0..count {
                let image = Image::new(1, 1, vec![number; 3]).unwrap();
                writer.add(&image.to_png().unwrap(), "png", 0).unwrap();
            }
            writer.finish().unwrap();
        }
    }

    #[test]
    fn surveys_are_cached_until_a_file_changes() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), 5);
        let read = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&read);
        let options = LoadOptions {
            watcher: ProgressCallback::new(move |_| {
                count.fetch_add(1, Ordering::Relaxed);
            }),
            ..LoadOptions::default()
        };
        let cached = root.path().join("surveys.json");
        let survey = || {
            let folder = ShardFolder::open(root.path()).unwrap();
            let dataset = folder.split(Split::Train, 64).unwrap();
            let mut surveys = Surveys::read(&cached);
            let (dataset, survey) = surveys.surveyed(dataset, &options, &SingleProcess).unwrap();
            surveys.write(&cached).unwrap();
            (
                dataset.sha256().to_string(),
                survey,
                read.swap(0, Ordering::Relaxed),
            )
        };
        let (sha256, first, read) = survey();
        assert_eq!(read, 5);
        assert_eq!(survey(), (sha256.clone(), first, 0));
        for shard in ["train-00000.tar", "test-00000.tar"] {
            fs::remove_file(root.path().join(shard)).unwrap();
        }
        write(root.path(), 6);
        let (changed, _, read) = survey();
        assert_eq!(read, 6);
        assert_ne!(changed, sha256);
        fs::write(&cached, "no JSON").unwrap();
        assert_eq!(survey().2, 6);
    }
}
