//! The same model in other frameworks.

use std::ffi::OsString;
use std::path::Path;

use clap::ValueEnum;
use perceiver_train::{DeviceChoice, Precision};

use super::workload::{Task, Workload};
use crate::error::{Result, XtaskError};
use crate::progress::Progress;
use crate::python;

/// A framework and backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// PyTorch, compiled; in bf16 with autocast.
    #[value(name = "pytorch-compiled")]
    Torch,
    /// Keras on TensorFlow; in bf16 with the policy `mixed_bfloat16`.
    KerasTensorflow,
    /// Keras on JAX, in f32.
    KerasJax,
}

/// The peers to measure, and the Python interpreter that has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peers {
    /// The interpreter.
    pub python: String,
    /// The peers; all that are installed if empty.
    pub only: Vec<Peer>,
}

impl Peers {
    /// Returns the peers that are installed and run on a device, and says which are left out.
    ///
    /// # Errors
    /// [`XtaskError::NoPeers`] when one of [`Peers::only`], or all of them, cannot be imported.
    pub(super) fn installed(&self, device: DeviceChoice, progress: &dyn Progress) -> Result<Self> {
        let mut installed = Vec::new();
        let mut last_error = None;
        for &peer in Peer::on(device) {
            if !self.only.is_empty() && !self.only.contains(&peer) {
                continue;
            }
            match peer.check(&self.python) {
                Ok(()) => installed.push(peer),
                Err(error) if self.only.is_empty() => {
                    progress.message(&format!("{} is left out: {error}", peer.name()));
                    last_error = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        match last_error {
            Some(error) if installed.is_empty() => Err(error),
            _ => Ok(Self {
                python: self.python.clone(),
                only: installed,
            }),
        }
    }
}

impl Peer {
    /// Returns the peers on a device. Keras's packages are installed for the CPU, so it runs only
    /// there.
    pub const fn on(device: DeviceChoice) -> &'static [Self] {
        match device {
            DeviceChoice::Cpu => &[Self::Torch, Self::KerasTensorflow, Self::KerasJax],
            DeviceChoice::Auto | DeviceChoice::Cuda(_) | DeviceChoice::Metal => &[Self::Torch],
        }
    }

    /// Checks that an interpreter has the packages of this peer.
    fn check(self, python: &str) -> Result<()> {
        let [modules, packages] = self.needs();
        python::check(python, modules, &self.environment()).map_err(|finding| XtaskError::NoPeers {
            python: python.to_owned(),
            finding,
            packages,
        })
    }

    /// Returns the modules that the scripts import, and the packages to install.
    const fn needs(self) -> [&'static str; 2] {
        match self {
            Self::Torch => ["torch", "torch"],
            Self::KerasTensorflow => [
                "h5py, keras, numpy, PIL, tensorflow",
                "keras tensorflow-cpu numpy h5py pillow",
            ],
            Self::KerasJax => ["jax, keras, numpy", "keras \"jax[cpu]\" numpy"],
        }
    }

    /// Returns the name in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::KerasTensorflow => "keras-tensorflow",
            Self::KerasJax => "keras-jax",
            Self::Torch => "pytorch-compiled",
        }
    }

    /// Whether the peer computes in a precision.
    pub(super) fn has(self, precision: Precision) -> bool {
        match self {
            Self::Torch => true,
            Self::KerasTensorflow => precision != Precision::Tf32,
            Self::KerasJax => precision == Precision::F32,
        }
    }

    pub(super) fn arguments(self, scripts: &Path, workload: &Workload) -> Result<Vec<OsString>> {
        let script = match self {
            Self::KerasTensorflow | Self::KerasJax => "keras_speed.py",
            Self::Torch => "torch_speed.py",
        };
        let task = match workload.task {
            Task::Train => "train",
            _ => "infer",
        };
        let config = serde_json::to_string(&workload.recipe()?.model).map_err(|error| {
            XtaskError::Contestant {
                name: self.name().to_owned(),
                command: script.to_owned(),
                finding: error.to_string(),
            }
        })?;
        let steps = if workload.forever {
            "forever".to_owned()
        } else {
            workload.steps.to_string()
        };
        let mut arguments = vec![scripts.join(script).into_os_string()];
        arguments
            .extend([task, &config, &workload.batch()?.to_string(), &steps].map(OsString::from));
        if self == Self::Torch {
            arguments.push(workload.device.to_string().into());
        }
        arguments.push(workload.precision.to_string().into());
        Ok(arguments)
    }

    pub(super) fn environment(self) -> Vec<(&'static str, &'static str)> {
        match self {
            Self::KerasTensorflow => vec![
                ("KERAS_BACKEND", "tensorflow"),
                ("TF_CPP_MIN_LOG_LEVEL", "3"),
            ],
            Self::KerasJax => vec![("KERAS_BACKEND", "jax"), ("JAX_PLATFORMS", "cpu")],
            // It compiles in its own process: others would go on beside the next contestant.
            Self::Torch => vec![("TORCHINDUCTOR_COMPILE_THREADS", "1")],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Keeps all messages.
    #[derive(Default)]
    struct Messages(Mutex<Vec<String>>);

    impl Progress for Messages {
        fn message(&self, line: &str) {
            self.0.lock().unwrap().push(line.to_owned());
        }
        fn progress(&self, _: u64, _: u64) {}
    }

    /// Writes an interpreter that can import only what mentions `module`.
    #[cfg(unix)]
    fn interpreter(folder: &Path, module: &str) -> String {
        use std::os::unix::fs::PermissionsExt;

        let path = folder.join("python");
        let script = format!(
            "#!/bin/sh\ncase \"$2\" in *{module}*) exit 0;; esac\necho no such module >&2\nexit 1\n"
        );
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    #[test]
    #[cfg(unix)]
    fn peers_that_are_not_installed_are_left_out_unless_they_were_named() {
        let folder = tempfile::tempdir().unwrap();
        let python = interpreter(folder.path(), "torch");
        let installed = |only: &[Peer], messages: &Messages| {
            let peers = Peers {
                python: python.clone(),
                only: only.to_vec(),
            };
            peers.installed(DeviceChoice::Cpu, messages)
        };
        let messages = Messages::default();
        assert_eq!(installed(&[], &messages).unwrap().only, [Peer::Torch]);
        let messages = messages.0.into_inner().unwrap();
        assert_eq!(messages.len(), 2, "{messages:?}");
        assert!(
            messages[0].starts_with("keras-tensorflow is left out: "),
            "{messages:?}"
        );
        assert!(messages[0].contains("no such module") && messages[0].contains("tensorflow-cpu"));

        let silent = Messages::default();
        assert_eq!(
            installed(&[Peer::Torch], &silent).unwrap().only,
            [Peer::Torch]
        );
        assert!(silent.0.lock().unwrap().is_empty());
        let error = installed(&[Peer::KerasJax], &silent).unwrap_err();
        assert!(matches!(error, XtaskError::NoPeers { .. }), "{error}");
    }

    #[test]
    fn an_interpreter_without_any_peer_is_an_error() {
        let peers = Peers {
            python: "no-such-python".into(),
            only: Vec::new(),
        };
        let error = peers
            .installed(DeviceChoice::Cpu, &Messages::default())
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("no-such-python cannot run the peers"),
            "{error}"
        );
    }
}
