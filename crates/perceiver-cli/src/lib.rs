//! The `perceiver` command as a library: [`run`] is the whole program.
//!
//! ```
//! use std::process::ExitCode;
//!
//! let code = perceiver_cli::run(["perceiver", "summary", "--preset", "quickstart"]);
//! assert_eq!(code, ExitCode::SUCCESS);
//! ```

// Only `terminal` writes output: these macros panic if nothing can be written.
#![warn(clippy::print_stderr, clippy::print_stdout)]

mod args; // shared flags
mod commands; // one file per command
mod runtime; // environment, signals, MPI, the Hub
mod ui; // progress bars, terminal output, log, error hints

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

pub use crate::args::errors::show as show_arguments_error;
use crate::args::errors::{USAGE_ERROR, UsageError};
#[cfg(feature = "export")]
use crate::commands::conversion::export;
use crate::commands::conversion::import_keras;
#[cfg(feature = "hub")]
use crate::commands::push;
#[cfg(feature = "serve")]
use crate::commands::serve;
use crate::commands::shell::{completions, man};
use crate::commands::{
    attention, compare, embeddings, evaluate, predict, report, runs, shard, summary, train, verify,
};
pub use crate::runtime::process_env;
use crate::runtime::{build_features, mpi_job};
use crate::ui::color::Colour;
use crate::ui::logging::{self, LogFormat};
use crate::ui::terminal::OutputError;
pub use crate::ui::{escape, terminal};

/// Train, evaluate and use Perceiver image classifiers.
#[derive(Debug, Parser)]
#[command(
    name = "perceiver",
    bin_name = "perceiver",
    version,
    about,
    arg_required_else_help = true
)]
#[command(
    after_help = "Start with `perceiver train`: it needs no flags, no data and no network.",
    after_long_help = "Start with `perceiver train`: it needs no flags, no data and no network.

Exit codes:
  0    success, also on a broken pipe, as with `head`
  1    an error, also in part: an unreadable image, a failed run of a sweep
  2    invalid arguments
  130  training was interrupted and saved

Examples:
  perceiver train
  perceiver evaluate runs/shapes-quickstart-1
  perceiver runs"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,

    /// Print only warnings and results.
    #[arg(long, short, global = true, help_heading = "Messages")]
    quiet: bool,

    /// Print what each step does; twice: every detail.
    #[arg(
        long,
        short,
        action = clap::ArgAction::Count,
        global = true,
        conflicts_with = "quiet",
        help_heading = "Messages"
    )]
    verbose: u8,

    /// When to use colors; auto respects `NO_COLOR`, `CLICOLOR` and `CLICOLOR_FORCE`.
    #[arg(
        long = "color",
        value_enum,
        value_name = "WHEN",
        default_value_t,
        global = true,
        help_heading = "Messages"
    )]
    colour: Colour,
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(train::Arguments),
    Evaluate(evaluate::Arguments),
    Predict(predict::Arguments),
    Embed(embeddings::embed::Arguments),
    Similar(embeddings::similar::Arguments),
    Report(report::Arguments),
    Watch(report::watch::Arguments),
    Compare(compare::Arguments),
    Attention(attention::Arguments),
    Summary(summary::Arguments),
    Runs(runs::Arguments),
    ImportKeras(import_keras::Arguments),
    Verify(verify::Arguments),
    #[cfg(feature = "serve")]
    Serve(Box<serve::Arguments>),
    /// Answer predictions over HTTP (needs the Cargo feature `serve`).
    #[cfg(not(feature = "serve"))]
    Serve(build_features::NotBuiltIn),
    Shard(shard::Arguments),
    #[cfg(feature = "hub")]
    Push(push::Arguments),
    /// Upload a checkpoint to the Hugging Face Hub (needs the Cargo feature `hub`).
    #[cfg(not(feature = "hub"))]
    Push(build_features::NotBuiltIn),
    #[cfg(feature = "export")]
    Export(export::Arguments),
    /// Write a model as an ONNX file for other programs (needs the Cargo feature `export`).
    #[cfg(not(feature = "export"))]
    Export(build_features::NotBuiltIn),
    Completions(completions::Arguments),
    Man(man::Arguments),
}

impl Command {
    /// Returns the format of the log.
    fn log_format(&self) -> LogFormat {
        match self {
            #[cfg(feature = "serve")]
            Self::Serve(arguments) => arguments.log_format(),
            _ => LogFormat::Text,
        }
    }
}

/// Returns the clap command with all subcommands.
pub(crate) fn command() -> clap::Command {
    Arguments::command()
}

/// Runs the program with these arguments, the first of which is its name. Results go to standard
/// output, everything else to standard error.
///
/// The exit code is 0 on success, 1 on failure, 2 for invalid arguments, and 130 when training was
/// interrupted and saved.
pub fn run(arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    let colour = Colour::from_arguments(&arguments);
    let command = command().color(colour.of_clap());
    let matches = command.try_get_matches_from(arguments);
    let arguments = match matches.and_then(|matches| Arguments::from_arg_matches(&matches)) {
        Ok(arguments) => arguments,
        Err(error) => return show_arguments_error(error, colour.of_log()), // also help and version
    };
    let quiet = arguments.quiet || mpi_job::is_nonzero_rank();
    let format = arguments.command.log_format();
    logging::start(quiet, arguments.verbose, arguments.colour, format);
    process_env::warn_of_threads();
    let outcome = match arguments.command {
        Command::Train(arguments) => train::run(&arguments),
        Command::Evaluate(arguments) => evaluate::run(&arguments),
        Command::Predict(arguments) => predict::run(&arguments),
        Command::Embed(arguments) => embeddings::embed::run(&arguments),
        Command::Similar(arguments) => embeddings::similar::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Watch(arguments) => report::watch::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Attention(arguments) => attention::run(&arguments),
        Command::Summary(arguments) => summary::run(&arguments),
        Command::Runs(arguments) => runs::run(&arguments),
        Command::ImportKeras(arguments) => import_keras::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Shard(arguments) => shard::run(&arguments),
        #[cfg(feature = "hub")]
        Command::Push(arguments) => push::run(&arguments),
        #[cfg(not(feature = "hub"))]
        Command::Push(arguments) => arguments.refuse("push", "hub"),
        #[cfg(feature = "export")]
        Command::Export(arguments) => export::run(&arguments),
        #[cfg(not(feature = "export"))]
        Command::Export(arguments) => arguments.refuse("export", "export"),
        #[cfg(feature = "serve")]
        Command::Serve(arguments) => serve::run(&arguments),
        #[cfg(not(feature = "serve"))]
        Command::Serve(arguments) => arguments.refuse("serve", "serve"),
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Man(arguments) => man::run(&arguments),
    };
    outcome.unwrap_or_else(|error| {
        let output = error.downcast_ref::<OutputError>();
        if output.is_some_and(OutputError::is_broken_pipe) {
            return ExitCode::SUCCESS;
        }
        let error = build_features::with_command(error);
        terminal::error(in_one_line(&error));
        match error.downcast_ref::<UsageError>() {
            Some(_) => ExitCode::from(USAGE_ERROR),
            None => ExitCode::FAILURE,
        }
    })
}

/// Formats an error and its causes in one line, without causes that an earlier message already
/// contains.
pub fn in_one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    let describe = |cause: &(dyn std::error::Error + 'static)| {
        let text = cause.to_string();
        // Only these errors span several lines: the last one has the place.
        match cause.downcast_ref::<toml::de::Error>() {
            Some(_) => text.trim_end().replace('\n', " "),
            None => text,
        }
    };
    for cause in error.chain().map(describe) {
        if !line.contains(&cause) {
            line.push_str(if line.is_empty() { "" } else { ": " });
            line.push_str(&cause);
        }
    }
    line
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDocTests;

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    /// Splits a shell command into words, as far as examples need: quotes, and nothing after a
    /// pipe.
    fn shell_words(line: &str) -> Vec<String> {
        let mut words = vec![String::new()];
        let mut quote = None;
        for character in line.chars() {
            match (quote, character) {
                (None, '|' | '>') => break,
                (None, ' ') => words.push(String::new()),
                (None, '\'' | '"') => quote = Some(character),
                (Some(open), _) if open == character => quote = None,
                _ => words.last_mut().unwrap().push(character),
            }
        }
        words.retain(|word| !word.is_empty());
        words
    }

    /// Returns the example lines in a command's help, verbatim.
    fn lines(command: &clap::Command) -> Vec<String> {
        let help = command.get_after_long_help().or(command.get_after_help());
        let help = help.map(ToString::to_string).unwrap_or_default();
        let examples = help.split_once("Examples:\n").map_or("", |parts| parts.1);
        examples.lines().map(ToString::to_string).collect()
    }

    /// Returns the commands in these lines, with backslash continuations joined.
    fn examples(lines: &[String]) -> Vec<String> {
        let joined = lines.join("\n").replace("\\\n", " ");
        joined.lines().map(|line| line.trim().to_string()).collect()
    }

    fn with_examples() -> Vec<clap::Command> {
        let program = command();
        let all = program.get_subcommands().chain([&program]);
        let shown = all.filter(|command| !command.is_hide_set());
        // Without its feature, a command only prints how to enable it.
        let optional = [
            ("push", cfg!(feature = "hub")),
            ("export", cfg!(feature = "export")),
            ("serve", cfg!(feature = "serve")),
        ];
        let is_missing = |name: &str| {
            optional
                .iter()
                .any(|(optional, is_built_in)| name == *optional && !is_built_in)
        };
        shown
            .filter(|command| !is_missing(command.get_name()))
            .cloned()
            .collect()
    }

    #[test]
    fn every_command_has_examples_and_every_example_is_a_command() {
        for command in with_examples() {
            let examples = examples(&lines(&command));
            assert!(!examples.is_empty(), "{} has none", command.get_name());
            for example in examples {
                let start = example.find("perceiver ").expect(&example);
                let parsed = Arguments::try_parse_from(shell_words(&example[start..]));
                assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
            }
        }
    }

    /// A wrapped line would be two commands when pasted.
    #[test]
    fn examples_do_not_wrap_on_a_narrow_terminal() {
        for command in with_examples() {
            let lines = lines(&command);
            let help = command.term_width(80).render_long_help().to_string();
            let shown: Vec<&str> = help.lines().map(str::trim_end).collect();
            for line in lines {
                assert!(
                    shown.contains(&line.as_str()),
                    "{line:?} is broken in:\n{help}"
                );
            }
        }
    }

    /// clap wraps text to the terminal's width; it would keep a line break within a paragraph.
    #[test]
    fn help_paragraphs_have_no_hard_line_breaks() {
        for command in with_examples() {
            let help = command.get_after_long_help().or(command.get_after_help());
            let help = help.map(ToString::to_string).unwrap_or_default();
            let text = help.split("Examples:\n").next().unwrap_or_default();
            for paragraph in text.split("\n\n").filter(|part| !part.contains("\n  ")) {
                let paragraph = paragraph.trim();
                assert!(
                    !paragraph.contains('\n'),
                    "{}: {paragraph:?}",
                    command.get_name()
                );
            }
        }
    }

    #[test]
    fn every_command_is_in_the_docs() {
        let docs = include_str!("../../../docs/cli.md");
        let program = command();
        let commands = program.get_subcommands();
        for command in commands.filter(|command| !command.is_hide_set()) {
            let name = format!("| `perceiver {}` |", command.get_name());
            assert!(docs.contains(&name), "docs/cli.md has no row {name}");
        }
    }

    #[test]
    fn the_clap_definition_is_valid() {
        command().debug_assert();
    }

    #[test]
    fn causes_are_not_repeated() {
        let error = anyhow!("no such file")
            .context("cannot read a.toml: no such file")
            .context("--config");
        assert_eq!(
            in_one_line(&error),
            "--config: cannot read a.toml: no such file"
        );
    }
}
