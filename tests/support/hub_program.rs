//! Runs the program in its own directory with a Hub on loopback, its own cache, and no token of the
//! user.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::hub::{HubServer, TOKEN, git_blob, sha256};
use crate::program::{ProgramOutput, Sandbox};

/// Environment variables of the user that would lead the program to another Hub, cache or token.
const NOT_OURS: [&str; 6] = [
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_TOKEN_PATH",
    "HF_HUB_OFFLINE",
    "HF_HUB_USER_AGENT_ORIGIN",
    "HF_TOKEN",
];

/// A directory to run the program in, and a Hub that the program uses.
pub struct HubSandbox {
    /// The directory.
    pub work: Sandbox,
    /// The Hub.
    pub hub: HubServer,
}

impl HubSandbox {
    /// Returns a command of the program with this Hub, its own cache and no token. The arguments
    /// must not contain spaces.
    #[must_use]
    pub fn command(&self, arguments: &str) -> Command {
        let mut command = self.work.command(arguments);
        for variable in NOT_OURS {
            command.env_remove(variable);
        }
        command
            .env("HF_ENDPOINT", self.hub.url())
            .env("HF_HOME", self.work.path("hf"))
            .env("NO_PROXY", "127.0.0.1");
        command
    }

    /// Runs the program with the token that has write access.
    ///
    /// # Panics
    /// When it cannot be run.
    #[must_use]
    pub fn run(&self, arguments: &str) -> ProgramOutput {
        output_of(self.command(arguments).env("HF_TOKEN", TOKEN))
    }

    /// Runs a command that must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub fn succeed(&self, arguments: &str) -> ProgramOutput {
        let output = self.run(arguments);
        assert_eq!(output.code, Some(0), "{arguments}: {}", output.err);
        output
    }

    /// Runs a command that must fail with exit code 1, and returns its standard error.
    ///
    /// # Panics
    /// When it ends otherwise.
    #[must_use]
    pub fn fail(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        assert_eq!(
            output.code,
            Some(1),
            "{arguments}: {} {}",
            output.out,
            output.err
        );
        assert!(!output.err.contains("panicked"), "{}", output.err);
        output.err
    }

    /// Returns the names of the files of a repository that were downloaded, in order.
    #[must_use]
    pub fn downloaded(&self, repo: &str) -> Vec<String> {
        let prefix = format!("/{repo}/resolve/");
        let requests = self.hub.requests().into_iter();
        let names = requests.filter_map(|request| {
            let (_, name) = request.path.strip_prefix(&prefix)?.split_once('/')?;
            (request.method == "GET").then(|| name.to_owned())
        });
        names.collect()
    }

    /// Asserts that every file in the cache has the content that its name states: the SHA-256 of a
    /// large file, git's SHA-1 of a small one. Returns their number.
    ///
    /// # Panics
    /// When one has another content, or is an incomplete download.
    pub fn assert_intact_cache(&self) -> usize {
        let blobs = |repository: PathBuf| fs::read_dir(repository.join("blobs"));
        let repositories = fs::read_dir(self.work.path("hf/hub")).unwrap();
        let all = repositories.filter_map(|repository| blobs(repository.unwrap().path()).ok());
        let mut count = 0;
        for blob in all.flatten() {
            let path = blob.unwrap().path();
            let content = fs::read(&path).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(
                name == sha256(&content) || name == git_blob(&content),
                "{}: {} bytes",
                path.display(),
                content.len()
            );
            count += 1;
        }
        count
    }
}

/// Runs a command, and asserts that it does not show the token.
///
/// # Panics
/// When it does, or cannot be run.
pub fn output_of(command: &mut Command) -> ProgramOutput {
    let output = command.output().unwrap();
    let output = ProgramOutput {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    };
    assert!(
        !output.out.contains(TOKEN) && !output.err.contains(TOKEN),
        "a token was shown: {output:?}"
    );
    output
}
