//! The survey of shards: shared out between ranks, and kept with a run, which goes on without reading everything again.

use std::path::Path;

use perceiver_data::{BrokenPictures, LoadOptions, ShardFile, Streamed, Survey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};
use crate::json_file;
use crate::ranks::Ranks;

/// What was found in the shards of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Surveys(Vec<Kept>);

/// A survey, and what it was made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Kept {
    files: Vec<ShardFile>,
    pictures: usize,
    shorter_side: usize,
    broken: BrokenPictures,
    survey: Survey,
}

impl Surveys {
    /// Those that a run has kept at `path`; none where the file is not there or not ours, since they can be made again.
    pub fn read(path: &Path) -> Self {
        json_file::read(path, "the surveys of a run's shards").unwrap_or_default()
    }

    /// Keeps them at `path`, if there are some.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        json_file::write(path, self)
    }

    /// The pictures without those that are broken, and what else a pass through all of them finds, unless it has been made and the
    /// files are what they were then. Each rank takes its part; all have to ask.
    ///
    /// # Errors
    /// When a shard cannot be read, no picture of a class can be, or a rank has gone.
    pub(crate) fn surveyed(
        &mut self,
        pictures: Streamed,
        options: &LoadOptions,
        ranks: &dyn Ranks,
    ) -> Result<(Streamed, Survey)> {
        let mut wanted = Kept {
            files: pictures.files()?,
            pictures: pictures.len(),
            shorter_side: options.shorter_side,
            broken: options.broken,
            survey: Survey::default(),
        };
        // The first rank decides for all: another host may tell other times of the files.
        let known = self.0.iter().find(|kept| kept.is_of(&wanted));
        let known: Option<Survey> = told(0, known.map(|kept| &kept.survey), ranks)?;
        let survey = if let Some(known) = known {
            known
        } else {
            let mine = Survey::of(&pictures, ranks.part(), options.broken, &options.watcher)?;
            let mut all = Survey::default();
            for rank in 0..ranks.size() {
                all.join(told(rank, &mine, ranks)?);
            }
            all
        };
        wanted.survey = survey.clone();
        self.0.retain(|kept| !kept.is_of(&wanted));
        self.0.push(wanted);
        Ok((pictures.surveyed(&survey)?, survey))
    }
}

impl Kept {
    fn is_of(&self, other: &Self) -> bool {
        self.files == other.files
            && self.pictures == other.pictures
            && self.shorter_side == other.shorter_side
            && self.broken == other.broken
    }
}

/// What a rank tells all.
fn told<T: DeserializeOwned>(rank: usize, mine: impl Serialize, ranks: &dyn Ranks) -> Result<T> {
    let failed = |error: serde_json::Error| TrainError::Ranks {
        rank: ranks.rank(),
        size: ranks.size(),
        finding: format!("what rank {rank} has found in the shards cannot be read: {error}"),
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

    use perceiver_data::{Image, ShardFolder, ShardWriter, Split, Watcher};

    use super::*;
    use crate::ranks::Alone;

    fn write(root: &Path, pictures: u8) {
        for split in [Split::Train, Split::Test] {
            let mut writer = ShardWriter::new(root, split, 100);
            for number in 0..pictures {
                let image = Image::new(1, 1, vec![number; 3]).unwrap();
                writer.add(&image.to_png().unwrap(), "png", 0).unwrap();
            }
            writer.finish().unwrap();
        }
    }

    #[test]
    fn what_was_found_is_kept_until_a_file_changes() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), 5);
        let read = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&read);
        let options = LoadOptions {
            watcher: Watcher::new(move |_| {
                count.fetch_add(1, Ordering::Relaxed);
            }),
            ..LoadOptions::default()
        };
        let kept = root.path().join("surveys.json");
        let survey = || {
            let pictures = ShardFolder::open(root.path()).unwrap();
            let pictures = pictures.split(Split::Train, 64).unwrap();
            let mut surveys = Surveys::read(&kept);
            let (pictures, survey) = surveys.surveyed(pictures, &options, &Alone).unwrap();
            surveys.write(&kept).unwrap();
            (
                pictures.sha256().to_string(),
                survey,
                read.swap(0, Ordering::Relaxed),
            )
        };
        let (sha256, found, pictures) = survey();
        assert_eq!(pictures, 5);
        assert_eq!(survey(), (sha256.clone(), found, 0));
        for shard in ["train-00000.tar", "test-00000.tar"] {
            fs::remove_file(root.path().join(shard)).unwrap();
        }
        write(root.path(), 6);
        let (changed, _, pictures) = survey();
        assert_eq!(pictures, 6);
        assert_ne!(changed, sha256);
        fs::write(&kept, "no JSON").unwrap();
        assert_eq!(survey().2, 6);
    }
}
