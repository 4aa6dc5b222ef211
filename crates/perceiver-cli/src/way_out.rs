//! What to do about an error of a run: the libraries say what is wrong, this says how to go on.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::Error;
use perceiver_train::{Recipe, RunDirectory, Standing, TrainError, shell_quoted};

/// An error of a run by `recipe`, with a way out where there is one.
pub(crate) fn shown(error: TrainError, run: &RunDirectory, recipe: &Recipe) -> Error {
    match way_out(&error, run, recipe) {
        Some(way) => {
            let told = format!("{error}; {way}");
            Error::new(error).context(told)
        }
        None => error.into(),
    }
}

fn way_out(error: &TrainError, run: &RunDirectory, recipe: &Recipe) -> Option<String> {
    let root = shell_quoted(run.root());
    let resume = format!("perceiver train --resume {root}");
    let anew = format!(
        "begin a new run with: perceiver train --recipe {} --output DIR",
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
                    "there is no other good state; the best weights so far may still be in {}; {anew}",
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
            format!("--dataset or --data-dir says where the run's data is; for other data {anew}")
        }
        TrainError::InUse { .. } => {
            format!("wait until that has ended, or stop it; then go on with: {resume}")
        }
        TrainError::Io { source, .. } => {
            format!("{}, then go on with: {resume}", remedy(source.kind()))
        }
        TrainError::NotFinite { .. } => {
            format!(
                "most likely the steps were too large: {anew} with a lower --learning-rate, --set training.clip_norm=1 or \
                 --set training.schedule.warmup_epochs=1; what {root} holds is from before that, {resume} goes on from there"
            )
        }
        TrainError::TooFewEpochs { .. } => format!("name more to go on with {root}"),
        _ => return None,
    })
}

/// How to go on from the previous state, if that is possible.
fn back(run: &RunDirectory, recipe: &Recipe, resume: &str) -> Result<String, TrainError> {
    let previous = run.previous_state();
    let Standing { epochs, steps, .. } = Standing::read(run, &previous, recipe)?;
    Ok(format!(
        "the state saved before it, {}, is good ({epochs} epochs and {steps} steps); go on from it with: {resume} --from-previous",
        previous.display()
    ))
}

/// How to go on from the last state after all, if that is possible.
fn forth(run: &RunDirectory, recipe: &Recipe, resume: &str) -> Result<String, TrainError> {
    Standing::read(run, &run.state(), recipe)?;
    Ok(format!(
        "the last state is good; go on from it with: {resume}"
    ))
}

/// What to do when the operating system refuses.
pub(crate) fn remedy(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            "free space there"
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "allow to read and write there"
        }
        _ => "put that right",
    }
}
