//! The `perceiver` command as a library: [`run`] is the whole program.
//!
//! ```
//! use std::process::ExitCode;
//!
//! let code = perceiver_cli::run(["perceiver", "summary", "--preset", "quickstart"]);
//! assert_eq!(code, ExitCode::SUCCESS);
//! ```

mod attention;
mod checkpoint;
mod compare;
mod evaluate;
mod forecast;
mod import_keras;
mod interrupt;
mod logging;
mod predict;
pub mod process_settings;
mod progress;
mod recipe_changes;
mod recipe_flags;
mod report;
mod summary;
mod sweep;
mod sweep_file;
mod sweep_table;
mod terminal;
mod train;
mod way_out;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Train, evaluate and use Perceiver image classifiers.
#[derive(Debug, Parser)]
#[command(
    name = "perceiver",
    bin_name = "perceiver",
    version,
    about,
    arg_required_else_help = true
)]
#[command(after_help = "Start with `perceiver train`: it needs no flags, no data and no network.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,

    /// Say less: warnings and results only.
    #[arg(long, short, global = true, help_heading = "Messages")]
    quiet: bool,

    /// Say more: what each step does.
    #[arg(
        long,
        short,
        global = true,
        conflicts_with = "quiet",
        help_heading = "Messages"
    )]
    verbose: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(train::Arguments),
    Evaluate(evaluate::Arguments),
    Predict(predict::Arguments),
    Report(report::Arguments),
    Compare(compare::Arguments),
    Attention(attention::Arguments),
    Summary(summary::Arguments),
    ImportKeras(import_keras::Arguments),
}

/// Runs the program with these arguments, the first of which is its name. Results go to standard output, everything else
/// to standard error.
///
/// The exit code is 0 on success, 1 when something failed, 2 for wrong arguments, and 130 when training was
/// interrupted and saved.
pub fn run(arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version come as errors too; printing fails only when nobody listens.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    logging::start(arguments.quiet, arguments.verbose);
    let outcome = match arguments.command {
        Command::Train(arguments) => train::run(&arguments),
        Command::Evaluate(arguments) => evaluate::run(&arguments),
        Command::Predict(arguments) => predict::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Attention(arguments) => attention::run(&arguments),
        Command::Summary(arguments) => summary::run(&arguments),
        Command::ImportKeras(arguments) => import_keras::run(&arguments),
    };
    outcome.unwrap_or_else(|error| {
        if nobody_listens(&error) {
            return ExitCode::SUCCESS;
        }
        eprintln!("error: {}", in_one_line(&error));
        ExitCode::FAILURE
    })
}

/// Whether the reader of our output has gone, as `head` does when it has seen enough.
fn nobody_listens(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// An error with its causes, those left out that the messages before them have told already.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !line.contains(&cause) {
            line.push_str(if line.is_empty() { "" } else { ": " });
            line.push_str(&cause);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn no_cause_is_told_twice() {
        let error = anyhow!("no such file")
            .context("cannot read a.toml: no such file")
            .context("--config");
        assert_eq!(
            in_one_line(&error),
            "--config: cannot read a.toml: no such file"
        );
    }
}
