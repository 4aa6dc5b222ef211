//! Color output: by `--color`, else the environment, else on a terminal only.
//!
//! Colors are used in clap's help, argument errors and log lines. Bars and tables have none.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};

use clap::{ColorChoice, ValueEnum};

/// When to use colors: automatically (on a terminal, unless `NO_COLOR` or `CLICOLOR=0` is set;
/// everywhere with `CLICOLOR_FORCE=1`), always, or never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Colour {
    #[default]
    Auto,
    Always,
    Never,
}

impl Colour {
    /// Reads `--color` before the arguments are parsed, because parse errors have colors too.
    pub(crate) fn from_arguments(arguments: &[OsString]) -> Self {
        let flags = arguments
            .iter()
            .take_while(|argument| *argument != "--")
            .enumerate();
        let values = flags.filter_map(|(index, argument)| {
            let argument = argument.to_str()?;
            match argument.strip_prefix("--color")? {
                "" => arguments.get(index + 1)?.to_str(),
                value => value.strip_prefix('='),
            }
        });
        let last = values
            .last()
            .and_then(|value| Self::from_str(value, false).ok());
        last.unwrap_or_default()
    }

    /// Converts to clap's type, whose `Auto` respects the same variables.
    pub(crate) fn of_clap(self) -> ColorChoice {
        match self {
            Self::Auto => ColorChoice::Auto,
            Self::Always => ColorChoice::Always,
            Self::Never => ColorChoice::Never,
        }
    }

    /// Whether log lines on standard error have colors.
    pub(crate) fn of_log(self) -> bool {
        let variable = |name: &str| std::env::var_os(name);
        self.is_on(variable, io::stderr().is_terminal())
    }

    fn is_on(self, variable: impl Fn(&str) -> Option<OsString>, is_terminal: bool) -> bool {
        let is_set = |name| variable(name).is_some_and(|value| !value.is_empty());
        let is_zero = |name| variable(name).as_deref() == Some(OsStr::new("0"));
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto if is_set("NO_COLOR") => false,
            Self::Auto if is_set("CLICOLOR_FORCE") && !is_zero("CLICOLOR_FORCE") => true,
            Self::Auto => {
                is_terminal
                    && !is_zero("CLICOLOR")
                    && variable("TERM").as_deref() != Some(OsStr::new("dumb"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_overrides_the_environment_which_overrides_the_terminal() {
        let is_on = |colour: Colour, variables: &[(&str, &str)], is_terminal| {
            let variable = |name: &str| {
                let mut matches = variables.iter().filter(|(known, _)| *known == name);
                matches.next().map(|(_, value)| (*value).into())
            };
            colour.is_on(variable, is_terminal)
        };
        let (no_color, force) = (("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1"));
        assert!(is_on(Colour::Auto, &[], true));
        assert!(!is_on(Colour::Auto, &[], false));
        assert!(!is_on(Colour::Auto, &[no_color], true));
        assert!(is_on(Colour::Auto, &[("NO_COLOR", "")], true));
        assert!(!is_on(Colour::Auto, &[("CLICOLOR", "0")], true));
        assert!(!is_on(Colour::Auto, &[("TERM", "dumb")], true));
        assert!(is_on(Colour::Auto, &[force], false));
        assert!(!is_on(Colour::Auto, &[("CLICOLOR_FORCE", "0")], false));
        assert!(!is_on(Colour::Auto, &[no_color, force], true));
        assert!(is_on(Colour::Always, &[no_color], false));
        assert!(!is_on(Colour::Never, &[force], true));
    }

    #[test]
    fn the_flag_is_found_at_any_position() {
        let parsed = |text: &str| {
            let arguments: Vec<OsString> = text.split(' ').map(Into::into).collect();
            Colour::from_arguments(&arguments)
        };
        assert_eq!(parsed("perceiver train"), Colour::Auto);
        assert_eq!(parsed("perceiver --color never train"), Colour::Never);
        assert_eq!(parsed("perceiver train --color=always"), Colour::Always);
        assert_eq!(parsed("perceiver train --color sometimes"), Colour::Auto);
        assert_eq!(parsed("perceiver train --color"), Colour::Auto);
        assert_eq!(parsed("perceiver predict -- --color=never"), Colour::Auto);
    }
}
