//! What people expect of a program on the command line: completions, manual pages, colours where they are wanted.

use std::process::Command;

use perceiver_tests::program::{Workplace, names_in};

fn workplace() -> Workplace {
    Workplace::new(env!("CARGO_BIN_EXE_perceiver-under-test"))
}

/// The commands that `--help` lists, clap's `help` aside.
fn commands(place: &Workplace) -> Vec<String> {
    let help = place.succeed("--help").out;
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = lines
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next());
    names
        .filter(|name| *name != "help")
        .map(ToString::to_string)
        .collect()
}

#[test]
fn every_shell_completes_every_command() {
    let place = workplace();
    let commands = commands(&place);
    assert!(commands.len() >= 8, "{commands:?}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = place.succeed(&format!("completions {shell}")).out;
        for word in commands
            .iter()
            .map(String::as_str)
            .chain(["resume", "checkpoint"])
        {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let unknown = place.run("completions tcsh");
    assert_eq!(unknown.code, Some(2));
    assert!(unknown.err.contains("bash"), "{}", unknown.err);
}

/// Where there is a bash, it takes the script and completes with it.
#[cfg(unix)]
#[test]
fn bash_takes_the_completions() {
    let place = workplace();
    let script = place.succeed("completions bash").out;
    place.write("perceiver.bash", script);
    let ask = "source ./perceiver.bash || exit 3
        COMP_WORDS=(perceiver tr) COMP_CWORD=1
        _perceiver perceiver tr perceiver
        echo \"${COMPREPLY[@]}\"";
    let bash = Command::new("bash")
        .args(["--norc", "-c", ask])
        .current_dir(place.path(""))
        .output();
    let Ok(output) = bash else {
        return; // no bash here
    };
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        said.trim(),
        "train",
        "{:?}",
        String::from_utf8(output.stderr)
    );
}

#[test]
fn every_command_has_a_manual_page() {
    let place = workplace();
    let commands = commands(&place);
    let said = place.succeed("man --output pages/man1").out;
    assert!(
        said.contains(&format!("{} pages", commands.len() + 1)),
        "{said}"
    );
    let mut expected: Vec<String> = commands
        .iter()
        .map(|command| format!("perceiver-{command}.1"))
        .chain(["perceiver.1".to_string()])
        .collect();
    expected.sort();
    assert_eq!(names_in(&place.path("pages/man1")), expected);
    for name in expected {
        let page = std::fs::read_to_string(place.path("pages/man1").join(&name)).unwrap();
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS"] {
            assert!(
                page.contains(&format!(".SH {section}")),
                "{name}: {section}"
            );
        }
        assert!(page.contains("Examples:"), "{name}");
        let title = name.trim_end_matches(".1");
        assert!(page.contains(&format!(".TH {title} 1")), "{name}: {page}");
    }
    let own = place.succeed("man").out;
    assert!(
        own.contains(".SH SUBCOMMANDS") && own.contains("Exit codes:"),
        "{own}"
    );
}

#[test]
fn a_manual_that_cannot_be_written_is_named() {
    let place = workplace();
    place.write("taken", "a file");
    let said = place.run("man --output taken");
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("--output taken"), "{}", said.err);
}

/// Whether a warning has colours: in a command that fails, and in a log line.
fn has_colours(place: &Workplace, arguments: &str, variables: &[(&str, &str)]) -> [bool; 2] {
    let said = |command: &str| {
        let output = place
            .command(&format!("{command} {arguments}"))
            .env_remove("NO_COLOR")
            .env_remove("CLICOLOR")
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    std::fs::create_dir_all(place.path("runs")).unwrap();
    let (refused, warned) = (said("summary --preset nope"), said("runs"));
    assert!(
        refused.contains("nope") && warned.contains("no runs in"),
        "{refused}{warned}"
    );
    [refused, warned].map(|text| text.contains('\x1b'))
}

#[test]
fn colours_are_where_they_are_asked_for() {
    let place = workplace();
    let (force, none) = (("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1"));
    assert_eq!(has_colours(&place, "", &[]), [false; 2]);
    assert_eq!(has_colours(&place, "", &[force]), [true; 2]);
    assert_eq!(has_colours(&place, "", &[force, none]), [false; 2]);
    assert_eq!(has_colours(&place, "--color always", &[none]), [true; 2]);
    assert_eq!(has_colours(&place, "--color=never", &[force]), [false; 2]);
}
