//! Runs the program in its own directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use perceiver_train::{Preset, Recipe};

/// A model that trains within seconds: the `[model]` table of a `--config` file, to which more
/// fields can be added.
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

/// A Perceiver IO that trains within seconds: the `[model]` table of a `--config` file, to which
/// more fields can be added.
pub const TINY_IO_MODEL: &str = r#"
[model]
type = "perceiver-io"
image_size = 16
num_latents = 4
d_latents = 8
num_blocks = 2
num_self_attends_per_block = 1
num_self_attention_heads = 2
num_cross_attention_heads = 1
num_labels = 20
initializer_range = 0.3
"#;

/// Returns a complete `--config` file: the tiny model on few images for one epoch. The last table
/// is `[training]`.
#[must_use]
pub fn tiny() -> String {
    tiny_of(TINY_MODEL)
}

/// Returns a complete `--config` file as [`tiny`] with another `[model]` table.
#[must_use]
pub fn tiny_of(model: &str) -> String {
    let rest = "
[data]
limit_train = 60
limit_test = 20
[training]
epochs = 1
batch_size = 16
";
    format!("{model}{rest}")
}

/// Returns the recipe of [`tiny`] over the quickstart's, with changes in TOML over it.
///
/// # Panics
/// When the changes are no part of a valid recipe.
#[must_use]
pub fn tiny_recipe(changes: &str) -> Recipe {
    Recipe::from_layers(&[
        ("quickstart", Preset::Quickstart.toml()),
        ("tiny", &tiny()),
        ("changes", changes),
    ])
    .unwrap()
}

/// Returns the names in a directory, sorted.
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

/// Environment variables of the user that would change the program's output.
const NOT_OURS: [&str; 4] = ["RUST_LOG", "NO_COLOR", "CLICOLOR_FORCE", "COLUMNS"];

/// A directory to run the program in.
pub struct Sandbox {
    program: PathBuf,
    directory: tempfile::TempDir,
}

/// The output and exit code of the program.
#[derive(Debug)]
pub struct ProgramOutput {
    /// The exit code; none after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Sandbox {
    /// Creates a directory that contains only `tiny.toml`, for the program at `program`.
    ///
    /// # Panics
    /// When it cannot be created.
    #[must_use]
    pub fn new(program: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("tiny.toml"), tiny()).unwrap();
        Self {
            program: program.into(),
            directory,
        }
    }

    /// Returns a path in the directory.
    #[must_use]
    pub fn path(&self, file: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(file)
    }

    /// Writes a file, and creates its directories.
    ///
    /// # Panics
    /// When that fails.
    pub fn write(&self, file: &str, content: impl AsRef<[u8]>) {
        let path = self.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Returns a command of the program in this directory, without input and with captured output.
    /// The arguments must not contain spaces.
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

    /// Runs [`Sandbox::command`].
    ///
    /// # Panics
    /// When it cannot be run.
    #[must_use]
    pub fn run(&self, arguments: &str) -> ProgramOutput {
        let output = self.command(arguments).output().unwrap();
        ProgramOutput {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
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
}
