//! Hints for errors of a run: how to resume.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::Error;
use perceiver_train::{Recipe, RunDirectory, TrainError, TrainingState, shell_quoted};

/// Adds a hint to an error of a run with `recipe`, if there is one.
pub(crate) fn shown(error: TrainError, run: &RunDirectory, recipe: &Recipe) -> Error {
    match hint(&error, run, recipe) {
        Some(hint) => {
            let message = format!("{error}; {hint}");
            Error::new(error).context(message)
        }
        None => error.into(),
    }
}

fn hint(error: &TrainError, run: &RunDirectory, recipe: &Recipe) -> Option<String> {
    let root = shell_quoted(run.root());
    let resume = format!("perceiver train --resume {root}");
    let anew = format!(
        "start a new run with: perceiver train --recipe {} --output DIR",
        shell_quoted(run.recipe())
    );
    let of_state = |path: &Path| path == run.state() || path == run.previous_state();
    Some(match error {
        TrainError::Damaged { path, .. }
        | TrainError::Io {
            action: "read",
            path,
            ..
        } if of_state(path) => {
            let other = if *path == run.state() {
                back(run, recipe, &resume)
            } else {
                forth(run, recipe, &resume)
            };
            other.unwrap_or_else(|_| {
                format!(
                    "there is no other intact state; the best weights so far may still be in {}; {anew}",
                    run.model().display()
                )
            })
        }
        TrainError::OtherRecipe {
            path,
            field,
            expected,
            ..
        } => back(run, recipe, &resume).unwrap_or_else(|_| {
            format!(
                "set {field} back to {expected} in {}, or {anew}",
                path.display()
            )
        }),
        TrainError::OtherData { .. } => {
            format!(
                "give the location of the run's data by --dataset or --data-dir; for other data {anew}"
            )
        }
        TrainError::InUse { .. } => {
            format!("wait until that process ends, or stop it, then resume with: {resume}")
        }
        TrainError::Io { source, .. } => {
            format!("{}, then resume with: {resume}", remedy(source.kind()))
        }
        TrainError::NotFinite { .. } => {
            format!(
                "the steps were probably too large: {anew} with a lower --learning-rate, --set training.clip_norm=1 or \
                 --set training.schedule.warmup_epochs=1; the state in {root} is from before that, {resume} continues from it"
            )
        }
        TrainError::TooFewEpochs { .. } => format!("use a larger --epochs to extend {root}"),
        _ => return None,
    })
}

/// Describes how to resume from the previous state, if possible.
fn back(run: &RunDirectory, recipe: &Recipe, resume: &str) -> Result<String, TrainError> {
    let previous = run.previous_state();
    let TrainingState { epochs, steps, .. } = TrainingState::read(run, &previous, recipe)?;
    Ok(format!(
        "the previous state, {}, is intact ({epochs} epochs and {steps} steps); resume from it with: {resume} --from-previous",
        previous.display()
    ))
}

/// Describes how to resume from the last state instead, if possible.
fn forth(run: &RunDirectory, recipe: &Recipe, resume: &str) -> Result<String, TrainError> {
    TrainingState::read(run, &run.state(), recipe)?;
    Ok(format!(
        "the last state is intact; resume from it with: {resume}"
    ))
}

/// Returns a remedy for an error of the operating system.
pub(crate) fn remedy(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            "free disk space"
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "allow reading and writing there"
        }
        _ => "fix that",
    }
}
