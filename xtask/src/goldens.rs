//! Golden values for the parity tests, regenerated with Keras by the scripts in `tests/oracle`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Result, XtaskError};
use crate::progress::Progress;
use crate::python;

/// The packages that the scripts import.
const PACKAGES: &str = "keras \"jax[cpu]\" numpy safetensors";

const SCRIPTS: [&str; 3] = ["perceiver.py", "preprocess.py", "training.py"];

/// The options of the golden values.
#[derive(Clone, Debug)]
pub struct Goldens {
    /// The Python interpreter.
    pub python: String,
    /// The seed of all random input.
    pub seed: u64,
    /// The directory of the scripts.
    pub oracle: PathBuf,
    /// The output directory; existing files are replaced.
    pub out: PathBuf,
    /// JSON files, each with the configuration of an additional Perceiver, which is named after the
    /// file.
    pub configs: Vec<PathBuf>,
}

impl Goldens {
    /// Runs every script.
    ///
    /// # Errors
    /// When Python or a package is missing (with the command that installs it), or a script fails.
    pub fn run(&self, progress: &dyn Progress) -> Result<()> {
        self.check_python()?;
        for script in SCRIPTS {
            let mut arguments = Vec::new();
            if script == "perceiver.py" {
                for config in &self.configs {
                    arguments.extend(["--config".into(), config.clone().into_os_string()]);
                }
            }
            progress.message(&format!("running {script} for {}", self.out.display()));
            let path = self.oracle.join(script);
            let status = self
                .command(&path)
                .arg(&self.out)
                .args(["--seed", &self.seed.to_string()])
                .args(arguments)
                .status();
            let finding = match status {
                Ok(status) if status.success() => continue,
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            };
            return Err(XtaskError::Oracle {
                script: path,
                finding,
            });
        }
        Ok(())
    }

    fn check_python(&self) -> Result<()> {
        python::check(&self.python, "jax, keras, numpy, safetensors", &[]).map_err(|finding| {
            XtaskError::NoOracle {
                python: self.python.clone(),
                finding,
                packages: PACKAGES,
            }
        })
    }

    /// Returns a Python command with JAX on the CPU, whose results vary least between machines.
    fn command(&self, first_argument: &Path) -> Command {
        let mut command = Command::new(&self.python);
        command
            .arg(first_argument)
            .env("KERAS_BACKEND", "jax")
            .env("JAX_PLATFORMS", "cpu");
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    #[test]
    fn a_missing_python_is_explained() {
        let goldens = Goldens {
            python: "no-such-python".into(),
            seed: 0,
            oracle: "oracle".into(),
            out: "out".into(),
            configs: Vec::new(),
        };
        let error = goldens.run(&Silent).unwrap_err().to_string();
        assert!(
            error.starts_with("no-such-python cannot run the Keras oracle"),
            "{error}"
        );
        assert!(error.contains("pip install keras"), "{error}");
    }
}
