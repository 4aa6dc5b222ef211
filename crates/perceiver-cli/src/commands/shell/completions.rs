//! `perceiver completions`: shell completions.

use std::process::ExitCode;

use anyhow::Result;
use clap_complete::Shell;

use crate::ui::terminal;

/// Print shell completions.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  perceiver completions bash \\
      > ~/.local/share/bash-completion/completions/perceiver
  perceiver completions zsh > ~/.zfunc/_perceiver
  perceiver completions fish > ~/.config/fish/completions/perceiver.fish")]
pub(crate) struct Arguments {
    /// Shell to complete for.
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(
        arguments.shell,
        &mut crate::command(),
        "perceiver",
        &mut script,
    );
    terminal::print(String::from_utf8(script)?.trim_end())?;
    Ok(ExitCode::SUCCESS)
}
