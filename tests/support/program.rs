//! Running the real program in a directory of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A model that trains in moments: the table of a file for `--config`, to which more of `[model]` can be added.
pub const TINY_MODEL: &str = "
[model]
image_size = 16
stem_units = []
patch_size = 8
latent_dim = 4
projection_dim = 8
num_heads = 2
head_dim = 4
num_transformer_blocks = 1
ffn_units = [8]
classifier_units = [20]
";

/// A whole file for `--config`: that model on few pictures, for an epoch. The last table is `[training]`.
#[must_use]
pub fn tiny() -> String {
    let rest = "
[data]
limit_train = 60
limit_test = 20
[training]
epochs = 1
batch_size = 16
";
    format!("{TINY_MODEL}{rest}")
}

/// The names in a directory, sorted.
///
/// # Panics
/// When it cannot be read.
#[must_use]
pub fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Variables of whoever runs the tests that would change what the program prints.
const NOT_OURS: [&str; 4] = ["RUST_LOG", "NO_COLOR", "CLICOLOR_FORCE", "COLUMNS"];

/// A directory to run the program in.
pub struct Workplace {
    program: PathBuf,
    directory: tempfile::TempDir,
}

/// What a run of the program printed, and its exit code.
#[derive(Debug)]
pub struct Said {
    /// The exit code; none after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Workplace {
    /// An empty directory but for `tiny.toml`, for the program at `program`.
    ///
    /// # Panics
    /// When there is no room for it.
    #[must_use]
    pub fn new(program: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("tiny.toml"), tiny()).unwrap();
        Self {
            program: program.into(),
            directory,
        }
    }

    /// A path in the directory.
    #[must_use]
    pub fn path(&self, file: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(file)
    }

    /// Writes a file, its directories included.
    ///
    /// # Panics
    /// When that is impossible.
    pub fn write(&self, file: &str, content: impl AsRef<[u8]>) {
        let path = self.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// The program with arguments that no space is in, to be run here: no input, output to be collected.
    #[must_use]
    pub fn command(&self, arguments: &str) -> Command {
        let mut program = Command::new(&self.program);
        for variable in NOT_OURS {
            program.env_remove(variable);
        }
        program
            .current_dir(self.directory.path())
            .args(arguments.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        program
    }

    /// Runs [`Workplace::command`].
    ///
    /// # Panics
    /// When it cannot be run.
    #[must_use]
    pub fn run(&self, arguments: &str) -> Said {
        let output = self.command(arguments).output().unwrap();
        Said {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// [`Workplace::run`] of what must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub fn succeed(&self, arguments: &str) -> Said {
        let said = self.run(arguments);
        assert_eq!(said.code, Some(0), "{arguments}: {}", said.err);
        said
    }
}
