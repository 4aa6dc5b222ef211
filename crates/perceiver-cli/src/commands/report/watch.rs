//! `perceiver watch`: follows a run in a browser or in the terminal, through the files of its
//! directory.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::args::named_directory;
use crate::ui::dashboard;

/// Follow a run: its report in a browser, updated while it trains.
///
/// The run may be trained by any process on this machine or on another one that shares its disk, or
/// be finished. Nothing is written to it, and ending `watch` does not disturb it. The page is served
/// to this machine only; its address is printed to standard output. From another machine, forward
/// the port: `ssh -L 8081:localhost:8081 HOST`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  perceiver watch runs/photos
  perceiver watch runs/photos --port 9000
  perceiver watch runs/photos --terminal")]
pub(crate) struct Arguments {
    /// Run directory.
    #[arg(value_name = "RUN")]
    run: PathBuf,

    /// Port to serve the page on, for this machine only [default: 8081, or any free one if it is in
    /// use].
    #[arg(long, value_name = "PORT", conflicts_with = "terminal")]
    port: Option<u16>,

    /// Show curves, remaining time, speed, memory and warnings in this terminal instead.
    #[arg(long, visible_alias = "tui")]
    terminal: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.terminal {
        dashboard::require_terminal_view()?;
    } else {
        dashboard::require_page("perceiver watch")?;
    }
    let directory = named_directory::run("RUN", &arguments.run)?;
    if arguments.terminal {
        dashboard::follow_in_terminal(directory)?;
    } else {
        dashboard::follow_in_browser(directory, arguments.port)?;
    }
    Ok(ExitCode::SUCCESS)
}
