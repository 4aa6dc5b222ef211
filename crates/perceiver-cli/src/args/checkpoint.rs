//! The `--checkpoint` flag of every command that uses a model: a directory or a model on the
//! Hugging Face Hub, with a hint if it is neither.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use perceiver_train::{
    Checkpoint, CheckpointConfig, DeviceChoice, Precision, RunDirectory, shell_quoted,
};

use crate::args::named_directory;
use crate::runtime::kernels;

/// The model to use.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CheckpointFlags {
    /// Run or checkpoint: a directory, or USER/NAME[@REVISION] on the Hugging Face Hub.
    #[arg(long, value_name = "DIR|USER/NAME")]
    checkpoint: String,

    /// Use no network: take models of the Hub from the local cache.
    #[arg(long)]
    offline: bool,

    /// The flag that named the checkpoint, for errors.
    #[arg(skip = "--checkpoint")]
    flag: &'static str,
}

/// The model that a command is about: its first argument, or `--checkpoint` for consistency with
/// other commands.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CheckpointArgument {
    /// Run or checkpoint: a directory, or USER/NAME[@REVISION] on the Hugging Face Hub.
    #[arg(
        value_name = "CHECKPOINT",
        required_unless_present = "checkpoint",
        conflicts_with = "checkpoint"
    )]
    model: Option<String>,

    /// Alternative to the argument, for consistency with other commands.
    #[arg(long, value_name = "DIR|USER/NAME")]
    checkpoint: Option<String>,

    /// Use no network: take models of the Hub from the local cache.
    #[arg(long)]
    offline: bool,
}

impl CheckpointArgument {
    /// Returns the named checkpoint, if any.
    pub(crate) fn named(&self) -> Option<CheckpointFlags> {
        let of_flag = self.checkpoint.iter().map(|name| ("--checkpoint", name));
        let mut named = of_flag.chain(self.model.iter().map(|name| ("CHECKPOINT", name)));
        let (flag, name) = named.next()?;
        Some(CheckpointFlags::of(flag, name, self.offline))
    }

    /// Returns the named checkpoint, which clap ensures.
    pub(crate) fn required(&self) -> Result<CheckpointFlags> {
        self.named()
            .context("CHECKPOINT: expected a run or checkpoint")
    }
}

impl CheckpointFlags {
    /// Creates the flags for a checkpoint named by another flag or argument.
    pub(crate) fn of(flag: &'static str, checkpoint: &str, offline: bool) -> Self {
        let checkpoint = checkpoint.to_owned();
        Self {
            checkpoint,
            offline,
            flag,
        }
    }

    /// Returns the checkpoint as named.
    pub(crate) fn shown(&self) -> &str {
        &self.checkpoint
    }

    /// Returns the directory with `files`, and with those of `optional` that exist. A model on the
    /// Hub is downloaded into the cache.
    pub(crate) fn directory(&self, files: &[&str], optional: &[&str]) -> Result<PathBuf> {
        self.require_no_lost_directory()?;
        hub::directory(self, files, optional)
    }

    /// Returns the directory with the files of the checkpoint, whichever kind of weights it has, and
    /// with those of `also` that exist. A model on the Hub is downloaded into the cache.
    pub(crate) fn files(&self, also: &[&str]) -> Result<PathBuf> {
        self.require_no_lost_directory()?;
        hub::files(self, also)
    }

    /// Checks that a name is not that of a local directory that does not exist.
    fn require_no_lost_directory(&self) -> Result<()> {
        let path = Path::new(&self.checkpoint);
        if !path.is_dir() && named_directory::looks_local(&self.checkpoint) {
            return Err(named_directory::missing(self.flag, path));
        }
        Ok(())
    }

    /// Reads `config.json` without loading the weights.
    pub(crate) fn config(&self) -> Result<CheckpointConfig> {
        let directory = self.directory(&["config.json"], &["preprocessor_config.json"])?;
        CheckpointConfig::read(directory.join("config.json")).with_context(|| self.hint(&directory))
    }

    /// Opens the checkpoint for inference on a device.
    pub(crate) fn open(&self, device: DeviceChoice) -> Result<Checkpoint> {
        if !Path::new(&self.checkpoint).is_dir() {
            self.config()?; // rejects another program's model before downloading its weights
        }
        let directory = self.files(&[])?;
        self.open_directory(&directory, device)
    }

    /// Opens the checkpoint in a directory returned by [`CheckpointFlags::directory`].
    pub(crate) fn open_directory(
        &self,
        directory: &Path,
        device: DeviceChoice,
    ) -> Result<Checkpoint> {
        let device = device.open()?;
        let checkpoint = Checkpoint::open(directory, &device);
        let checkpoint = checkpoint.with_context(|| self.hint(directory))?;
        kernels::log(&device, Precision::F32, &checkpoint.config.model);
        Ok(checkpoint)
    }

    fn hint(&self, directory: &Path) -> String {
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
    use perceiver_hub::{HubAccess, ModelSource};

    use super::CheckpointFlags;
    use crate::args::errors::usage_error;
    use crate::args::named_directory::hint;
    use crate::runtime::hub;

    /// Returns the directory of the files; for the Hub, the one in its cache.
    pub(crate) fn directory(
        flags: &CheckpointFlags,
        files: &[&str],
        optional: &[&str],
    ) -> Result<PathBuf> {
        looked_up(flags, |source, access| {
            source.directory(access, files, optional)
        })
    }

    /// Returns the directory of a whole checkpoint, with the existing ones of `also`.
    pub(crate) fn files(flags: &CheckpointFlags, also: &[&str]) -> Result<PathBuf> {
        looked_up(flags, |source, access| source.checkpoint(access, also))
    }

    fn looked_up(
        flags: &CheckpointFlags,
        fetch: impl Fn(&ModelSource, &HubAccess) -> perceiver_hub::Result<PathBuf>,
    ) -> Result<PathBuf> {
        let (flag, shown) = (flags.flag, &flags.checkpoint);
        let source = ModelSource::of(shown).map_err(|error| {
            usage_error(anyhow!("{flag} {shown}: {error}{}", hint(shown.as_ref())))
        })?;
        let access = hub::with_bar(flags.offline);
        let directory = fetch(&source, &access);
        directory.with_context(|| {
            format!("{flag} {shown}: no such directory, so it was looked up on the Hub")
        })
    }
}

/// Without the feature `hub`, only directories can be opened.
#[cfg(not(feature = "hub"))]
mod hub {
    use std::path::PathBuf;

    use anyhow::{Result, anyhow};

    use super::CheckpointFlags;
    use crate::args::errors::usage_error;
    use crate::args::named_directory::hint;
    use crate::runtime::build_features;

    pub(crate) fn directory(flags: &CheckpointFlags, _: &[&str], _: &[&str]) -> Result<PathBuf> {
        files(flags, &[])
    }

    pub(crate) fn files(flags: &CheckpointFlags, _: &[&str]) -> Result<PathBuf> {
        let (flag, checkpoint) = (flags.flag, &flags.checkpoint);
        let directory = PathBuf::from(checkpoint);
        if directory.is_dir() {
            return Ok(directory);
        }
        let hint = hint(checkpoint.as_ref());
        let error = anyhow!(
            "{flag} {checkpoint}: expected a directory, as models on the Hub need the Cargo feature `hub`; {}{hint}",
            build_features::how_to_get("hub")
        );
        // Without `/`, it is not the name of a model on the Hub either.
        Err(if checkpoint.contains('/') {
            error
        } else {
            usage_error(error)
        })
    }
}
