//! Cargo features that a build may lack, and the commands that enable them.
//!
//! The Hub client and the Parquet reader take more than half of the compilation, and the first
//! training run needs neither, so they are off by default.

use anyhow::Error;
use perceiver_data::DataError;
use perceiver_train::TrainError;

/// Describes the commands that build the program with `feature`.
pub(crate) fn how_to_get(feature: &str) -> String {
    format!(
        "build it in with: cargo run -p perceiver-cli --features {feature} -- ..., or install it with: \
         cargo install --path crates/perceiver-cli --features {feature}"
    )
}

/// Adds the command that enables the missing feature, if that is the cause of `error`.
pub(crate) fn with_command(error: Error) -> Error {
    match missing_feature(&error) {
        Some(feature) => {
            let message = format!("{}; {}", crate::in_one_line(&error), how_to_get(feature));
            error.context(message)
        }
        None => error,
    }
}

fn missing_feature(error: &Error) -> Option<&'static str> {
    error.chain().find_map(|cause| {
        let data = match cause.downcast_ref() {
            Some(TrainError::Data(data)) => Some(data),
            _ => cause.downcast_ref(),
        };
        match data {
            Some(DataError::NotBuiltIn { feature, .. }) => Some(*feature),
            _ => None,
        }
    })
}

/// Checks that this build has the feature that a thing needs.
///
/// # Errors
/// When it is not built in.
pub(crate) fn require(what: &str, feature: &str, is_built_in: bool) -> anyhow::Result<()> {
    anyhow::ensure!(
        is_built_in,
        "{what} needs the Cargo feature `{feature}`, which this program was built without; {}",
        how_to_get(feature)
    );
    Ok(())
}

/// The arguments of a command that this build lacks.
#[cfg(not(all(feature = "hub", feature = "export", feature = "serve")))]
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct NotBuiltIn {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _arguments: Vec<std::ffi::OsString>,
}

#[cfg(not(all(feature = "hub", feature = "export", feature = "serve")))]
impl NotBuiltIn {
    /// Returns the error of a command that needs `feature`, which this build lacks.
    #[expect(clippy::unused_self)]
    pub(crate) fn refuse(
        &self,
        command: &str,
        feature: &str,
    ) -> anyhow::Result<std::process::ExitCode> {
        require(&format!("perceiver {command}"), feature, false)?;
        Ok(std::process::ExitCode::FAILURE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_for_a_missing_feature_is_named_once() {
        let missing = || DataError::NotBuiltIn {
            what: "data set hf:me/pets".into(),
            feature: "hub",
        };
        for error in [
            Error::new(missing()),
            Error::new(TrainError::Data(missing())).context("--dataset"),
        ] {
            let line = crate::in_one_line(&with_command(error));
            assert!(line.contains("data set hf:me/pets needs the Cargo feature `hub`"));
            assert_eq!(line.matches("cargo install").count(), 1, "{line}");
        }
        let other = crate::in_one_line(&with_command(anyhow::anyhow!("no such file")));
        assert_eq!(other, "no such file");
    }
}
