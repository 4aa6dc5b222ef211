//! `--checkpoint`, as every command that uses a model takes it: a directory or a model of the Hugging Face Hub, opened with a way
//! out when it is neither.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use perceiver_train::{
    Checkpoint, CheckpointConfig, DeviceChoice, Precision, RunDirectory, shell_quoted,
};

use crate::kernels;
use crate::named_directory;

/// Which model to use.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CheckpointFlags {
    /// Run or checkpoint: a directory, or USER/NAME[@REVISION] on the Hugging Face Hub.
    #[arg(long, value_name = "DIR|USER/NAME")]
    checkpoint: String,

    /// Open no connection: a model of the Hub comes from its cache.
    #[arg(long)]
    offline: bool,

    /// What the name was given to, for errors.
    #[arg(skip = "--checkpoint")]
    flag: &'static str,
}

/// The one model that a command is about: its first argument, or `--checkpoint` as the other commands take it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CheckpointArgument {
    /// Run or checkpoint: a directory, or USER/NAME[@REVISION] on the Hugging Face Hub.
    #[arg(
        value_name = "CHECKPOINT",
        required_unless_present = "checkpoint",
        conflicts_with = "checkpoint"
    )]
    model: Option<String>,

    /// The same, as other commands take it.
    #[arg(long, value_name = "DIR|USER/NAME")]
    checkpoint: Option<String>,

    /// Open no connection: a model of the Hub comes from its cache.
    #[arg(long)]
    offline: bool,
}

impl CheckpointArgument {
    /// The checkpoint that was named, if one was.
    pub(crate) fn named(&self) -> Option<CheckpointFlags> {
        let of_flag = self.checkpoint.iter().map(|name| ("--checkpoint", name));
        let mut named = of_flag.chain(self.model.iter().map(|name| ("CHECKPOINT", name)));
        let (flag, name) = named.next()?;
        Some(CheckpointFlags::of(flag, name, self.offline))
    }

    /// The checkpoint, where clap makes sure that one is named.
    pub(crate) fn required(&self) -> Result<CheckpointFlags> {
        self.named()
            .context("CHECKPOINT: expected a run or checkpoint")
    }
}

impl CheckpointFlags {
    /// The checkpoint of this name, given to another flag or argument.
    pub(crate) fn of(flag: &'static str, checkpoint: &str, offline: bool) -> Self {
        let checkpoint = checkpoint.to_owned();
        Self {
            checkpoint,
            offline,
            flag,
        }
    }

    /// The checkpoint as it was named.
    pub(crate) fn shown(&self) -> &str {
        &self.checkpoint
    }

    /// The directory with `files`, and with those of `optional` that there are; a model of the Hub is downloaded into its cache.
    pub(crate) fn directory(&self, files: &[&str], optional: &[&str]) -> Result<PathBuf> {
        let path = Path::new(&self.checkpoint);
        if !path.is_dir() && named_directory::looks_local(&self.checkpoint) {
            return Err(named_directory::missing(self.flag, path));
        }
        hub::directory(self, files, optional)
    }

    /// What its `config.json` says, its weights unread.
    pub(crate) fn config(&self) -> Result<CheckpointConfig> {
        let directory = self.directory(&["config.json"], &[])?;
        CheckpointConfig::read(&directory.join("config.json"))
            .with_context(|| self.way_out(&directory))
    }

    /// The checkpoint, ready to classify pictures on a device.
    pub(crate) fn open(&self, device: DeviceChoice) -> Result<Checkpoint> {
        if !Path::new(&self.checkpoint).is_dir() {
            self.config()?; // another program's model of the Hub is refused before its weights are downloaded, or found in other files
        }
        let directory = self.directory(&Checkpoint::FILES, &[])?;
        self.open_directory(&directory, device)
    }

    /// The checkpoint in the directory that [`CheckpointFlags::directory`] gave.
    pub(crate) fn open_directory(
        &self,
        directory: &Path,
        device: DeviceChoice,
    ) -> Result<Checkpoint> {
        let device = device.open()?;
        let checkpoint = Checkpoint::open(directory, &device);
        let checkpoint = checkpoint.with_context(|| self.way_out(directory))?;
        kernels::say(&device, Precision::F32, &checkpoint.config.model);
        Ok(checkpoint)
    }

    fn way_out(&self, directory: &Path) -> String {
        let (flag, shown) = (self.flag, &self.checkpoint);
        match RunDirectory::open(directory) {
            Ok(run) if run.state().exists() => format!(
                "{flag} {shown}: `perceiver train --resume {}` writes config.json and model.safetensors again",
                shell_quoted(shown)
            ),
            _ => format!(
                "{flag} {shown}: expected a directory with config.json and model.safetensors, as `perceiver train` makes it"
            ),
        }
    }
}

#[cfg(feature = "hub")]
mod hub {
    use std::path::PathBuf;

    use anyhow::{Context, Result, anyhow};
    use perceiver_hub::ModelPlace;

    use super::CheckpointFlags;
    use crate::hub_access;
    use crate::named_directory::hint;
    use crate::wrong_arguments::wrong;

    /// Where the files are, those of the Hub in its cache.
    pub(super) fn directory(
        flags: &CheckpointFlags,
        files: &[&str],
        optional: &[&str],
    ) -> Result<PathBuf> {
        let (flag, shown) = (flags.flag, &flags.checkpoint);
        let place = ModelPlace::of(shown)
            .map_err(|error| wrong(anyhow!("{flag} {shown}: {error}{}", hint(shown.as_ref()))))?;
        let access = hub_access::with_bar(flags.offline);
        let directory = place.directory(&access, files, optional);
        directory.with_context(|| {
            format!("{flag} {shown}: there is no such directory, so it was looked for on the Hub")
        })
    }
}

/// Without the Hub there are directories alone.
#[cfg(not(feature = "hub"))]
mod hub {
    use std::path::PathBuf;

    use anyhow::{Result, anyhow};

    use super::CheckpointFlags;
    use crate::build_features;
    use crate::named_directory::hint;
    use crate::wrong_arguments::wrong;

    pub(super) fn directory(flags: &CheckpointFlags, _: &[&str], _: &[&str]) -> Result<PathBuf> {
        let (flag, checkpoint) = (flags.flag, &flags.checkpoint);
        let directory = PathBuf::from(checkpoint);
        if directory.is_dir() {
            return Ok(directory);
        }
        let hint = hint(checkpoint.as_ref());
        let error = anyhow!(
            "{flag} {checkpoint}: expected a directory, since models of the Hub need the Cargo feature `hub`; {}{hint}",
            build_features::how_to_get("hub")
        );
        // A name without `/` is no model of the Hub either.
        Err(if checkpoint.contains('/') {
            error
        } else {
            wrong(error)
        })
    }
}
