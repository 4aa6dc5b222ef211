//! `perceiver man`: manual pages, one per command.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap_mangen::Man;
use perceiver_train::write_file;

use crate::ui::escape;
use crate::ui::terminal;

/// Write manual pages.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  perceiver man | man -l -
  perceiver man --output ~/.local/share/man/man1")]
pub(crate) struct Arguments {
    /// Write one page per command to this directory; without it, print the main page.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let command = crate::command();
    match &arguments.output {
        None => terminal::print(String::from_utf8(page(command)?)?.trim_end())?,
        Some(directory) => {
            let pages = write(directory, command)
                .with_context(|| format!("--output {}", directory.display()))?;
            terminal::print(format_args!(
                "{pages} pages written to {}",
                escape::os(directory.as_os_str())
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the pages of a program and its commands, and returns their number.
fn write(directory: &Path, mut program: clap::Command) -> Result<usize> {
    std::fs::create_dir_all(directory)?;
    // Propagates the program's name and flags to the commands.
    program.build();
    let commands = program.get_subcommands().filter(|command| {
        // clap's own `help` has a page per command.
        !command.is_hide_set() && command.get_name() != "help"
    });
    let mut pages = vec![("perceiver.1".to_string(), program.clone())];
    pages.extend(commands.map(|command| {
        let name = format!("perceiver-{}", command.get_name());
        (format!("{name}.1"), command.clone())
    }));
    for (name, command) in &pages {
        write_file(&directory.join(name), &page(command.clone())?)?;
    }
    Ok(pages.len())
}

/// Renders the manual page of a command.
fn page(command: clap::Command) -> Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command).render(&mut page)?;
    Ok(page)
}
