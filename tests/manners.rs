//! What people expect of a program on the command line: completions, manual pages, colours where they are wanted.

use std::process::Command;

use perceiver_tests::program::{Said, Sandbox, names_in};

fn workplace() -> Sandbox {
    Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"))
}

/// The commands that `--help` lists, clap's `help` aside.
fn commands(place: &Sandbox) -> Vec<String> {
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
fn has_colours(place: &Sandbox, arguments: &str, variables: &[(&str, &str)]) -> [bool; 2] {
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

/// A command, with arguments that may have spaces, and what it printed.
fn run(place: &Sandbox, plain: &str, more: &[&std::ffi::OsStr]) -> Said {
    let output = place.command(plain).args(more).output().unwrap();
    Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A workplace with a model of shapes in `run`.
fn trained() -> Sandbox {
    let place = workplace();
    place.succeed("train --quiet --preset quickstart --config tiny.toml --output run");
    place
}

fn image() -> Vec<u8> {
    let test = perceiver_data::shapes(perceiver_data::Split::Test, perceiver_data::Labels::Fine);
    test.unwrap().images()[0].to_png().unwrap()
}

#[cfg(unix)]
mod hostile_names {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;

    use perceiver_tests::program::{Said, Sandbox};

    use super::{image, run, trained, workplace};

    /// Clears the screen, rings, goes back to the start of the line, forges an error, turns text around, is no UTF-8.
    const NAME: &[u8] = b"a\x1b[2J\x07\r\nerror: forged\xe2\x80\xae\xc2\x9b31m\xff.png";
    const CLASS: &str = "cat\u{1b}]0;owned\u{7}\nerror: forged\u{202e}";

    /// Whether nothing that was printed is a command to a terminal, or an error of a name's own.
    fn require_harmless(said: &Said) {
        for text in [&said.out, &said.err] {
            let found = text
                .chars()
                .find(|&c| perceiver_cli::escape::is_unsafe(c) && c != '\n');
            assert_eq!(found, None, "{text:?}");
            assert!(
                !text.lines().any(|line| line.starts_with("error: forged")),
                "{text}"
            );
        }
    }

    #[test]
    fn file_names_are_escaped_and_can_be_found_again() {
        let place = trained();
        let name = OsStr::from_bytes(NAME);
        fs::write(place.path(name), image()).unwrap();
        let predict = |format: &str| {
            let plain = format!("predict --checkpoint run --top-k 1 --format {format}");
            let said = run(&place, &plain, &[name]);
            assert_eq!(said.code, Some(0), "{}", said.err);
            said
        };
        let shown = r"a\u{1b}[2J\u{7}\r\nerror: forged\u{202e}\u{9b}31m\xff.png";
        for format in ["text", "table"] {
            let said = predict(format);
            require_harmless(&said);
            assert!(said.out.contains(shown), "{}", said.out);
        }
        let encoded = "a%1B%5B2J%07%0D%0Aerror%3A%20forged%E2%80%AE%C2%9B31m%FF.png";
        let said = predict("json");
        require_harmless(&said);
        let json: serde_json::Value = serde_json::from_str(&said.out).unwrap();
        assert_eq!(json["image"], String::from_utf8_lossy(NAME).as_ref());
        assert_eq!(json["image_percent_encoded"], encoded);
        let csv = predict("csv").out; // quoted, and otherwise as it is
        assert!(csv.starts_with("image,rank,class,probability,image_percent_encoded\n\"a\x1b"));
        assert!(csv.trim_end().ends_with(encoded), "{csv}");
    }

    #[test]
    fn errors_and_log_lines_are_one_line_each() {
        let place = trained();
        let name = OsStr::from_bytes(NAME);
        for arguments in [
            "predict --checkpoint run",
            "train --dataset",
            "train --resume",
            "runs",
        ] {
            let said = run(&place, arguments, &[name]);
            assert_ne!(said.code, Some(0), "{arguments}");
            require_harmless(&said);
            let errors = said.err.lines().filter(|line| line.starts_with("error: "));
            assert_eq!(errors.count(), 1, "{arguments}: {}", said.err);
        }
        // A log line: a picture of a data set that cannot be read.
        for (class, file) in [
            ("a", "1.png"),
            ("a", "2.png"),
            ("b", "3.png"),
            ("b", "4.png"),
        ] {
            place.write(&format!("photos/{class}/{file}"), image());
        }
        fs::write(place.path("photos/a").join(name), "no image").unwrap();
        let said = run(
            &place,
            "train -v --dataset folder:photos --config tiny.toml --preset quickstart --output out",
            &[],
        );
        require_harmless(&said);
        assert!(said.err.contains(r"\nerror: forged"), "{}", said.err);
    }

    #[test]
    fn class_names_of_a_model_are_escaped() {
        let place = trained();
        let config = fs::read_to_string(place.path("run/config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
        for index in 0..20 {
            config["id2label"][index.to_string()] = format!("{index}{CLASS}").into();
        }
        let ids = (0..20).map(|index| (format!("{index}{CLASS}"), index.into()));
        config["label2id"] = serde_json::Value::Object(ids.collect());
        place.write("run/config.json", config.to_string());
        place.write("1.png", image());
        for format in ["text", "table", "json"] {
            let said = place.succeed(&format!("predict --checkpoint run --format {format} 1.png"));
            require_harmless(&said);
            assert!(said.out.contains("owned"), "{}", said.out);
        }
        let said = place.run("evaluate --checkpoint run");
        assert_eq!(said.code, Some(1)); // other classes than the data set's
        require_harmless(&said);
    }

    /// Those of the tests in an archive are the shards' own.
    #[test]
    fn text_of_a_weights_file_is_escaped() {
        let place = trained();
        let header = "{\"a\u{1b}[2J\\nerror: forged\":{\"dtype\":\"F9\",\"shape\":[1],\"data_offsets\":[0,4]}}";
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([0; 4]);
        place.write("run/model.safetensors", bytes);
        place.write("1.png", image());
        let said = place.run("predict --checkpoint run 1.png");
        assert_eq!(said.code, Some(1));
        require_harmless(&said);
    }

    #[test]
    fn a_run_of_any_name_is_listed_and_its_command_is_quoted() {
        let place: Sandbox = workplace();
        let name = OsStr::from_bytes(b"a b;\x1b\xff");
        let plain = "train --quiet --preset quickstart --config tiny.toml --output";
        assert_eq!(run(&place, plain, &[name]).code, Some(0));
        fs::remove_file(place.path(name).join("results.json")).unwrap();
        let said = place.succeed("runs .");
        require_harmless(&said);
        assert!(said.out.contains(r"a b;\u{1b}\xff"), "{}", said.out);
        let command = r"resume with: perceiver train --resume $'./a b;\x1b\xff'";
        assert!(said.out.contains(command), "{}", said.out);
        let json = place.succeed("runs . --json").out;
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json[0]["run_percent_encoded"], "./a%20b%3B%1B%FF");
    }
}

/// A file that takes nothing, as a full disk.
#[cfg(target_os = "linux")]
fn full() -> std::fs::File {
    std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn what_cannot_be_said_is_dropped_and_work_goes_on() {
    let place = workplace();
    let unheard = |arguments: &str| {
        let status = place.command(arguments).stderr(full()).status().unwrap();
        status.code()
    };
    let train = "train -vv --preset quickstart --config tiny.toml --epochs 2 --output run";
    assert_eq!(unheard(train), Some(0));
    assert!(place.path("run/results.json").exists());
    assert_eq!(unheard("predict --checkpoint run nope.png"), Some(1));
    assert_eq!(unheard("train --preset nope"), Some(2));
    assert_eq!(unheard("train --resume nowhere"), Some(2));
    assert_eq!(unheard("runs"), Some(2));
}

#[cfg(target_os = "linux")]
#[test]
fn results_that_cannot_be_written_are_an_error() {
    let place = trained();
    place.write("1.png", image());
    for arguments in [
        "--help",
        "--version",
        "train --help",
        "completions bash",
        "man",
        "summary",
        "runs . --json",
        "predict --checkpoint run 1.png",
        "predict --checkpoint run --format csv 1.png",
        "predict --checkpoint run --format table 1.png",
        "evaluate --checkpoint run --json",
    ] {
        let output = place.command(arguments).stdout(full()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments}: {said}");
        assert!(
            said.contains("error: cannot write to standard output"),
            "{arguments}: {said}"
        );
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let place = workplace();
    for arguments in ["--help", "completions bash", "summary"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = place.command(arguments).stdout(writer).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments}");
        assert_eq!(output.stderr, b"", "{arguments}");
    }
}

#[test]
fn every_flag_has_its_range_and_refuses_with_2() {
    let place = trained();
    place.write("1.png", image());
    for arguments in [
        "train --epochs 0",
        "train --batch-size 0",
        "train --learning-rate 0",
        "train --learning-rate nan",
        "train --limit-train 1",
        "train --limit-test 0",
        "train --checkpoint-every 0",
        "train --budget 0s",
        "train --seed 18446744073709551616",
        "train --seed -1",
        "train --set training.epochs=0",
        "train --set model.patch_size=5",
        "train --config nowhere.toml",
        "train --sweep nowhere.toml",
        "train --resume run --epochs 0",
        "evaluate --checkpoint run --limit-test 0",
        "predict --checkpoint run --top-k 0 1.png",
        "attention --checkpoint run --output a.png --latent 0 1.png",
        "attention --checkpoint run --output a.png --latent 5 1.png",
        "attention --checkpoint run --output a.png --iteration 99 1.png",
        "shard --dataset shapes --output x --shard-size 0",
        "compare run",
        "summary --set model.latent_dim=0",
    ] {
        let said = place.run(arguments);
        assert_eq!(said.code, Some(2), "{arguments}: {}", said.err);
    }
    assert!(!place.path("runs").exists() && !place.path("a.png").exists());
}

#[test]
fn any_seed_is_one() {
    let place = workplace();
    let train = "train --quiet --preset quickstart --config tiny.toml";
    place.succeed(&format!("{train} --seed 9223372036854775808 --output run"));
    place.succeed("train --quiet --resume run --epochs 2");
    place.succeed("evaluate --checkpoint run");
    place.succeed(&format!(
        "{train} --set training.seed=18446744073709551615 --output set"
    ));
    place.write(
        "sweep.toml",
        "seeds = [1, '9223372036854775808']\n[[variant]]\nname = 'a'\n",
    );
    place.succeed(&format!("{train} --sweep sweep.toml --output sweep"));
    let same = ["run", "sweep/a-seed9223372036854775808"]
        .map(|run| std::fs::read_to_string(place.path(run).join("metrics.jsonl")).unwrap())
        .map(|metrics| metrics.split("\"val_loss\":").nth(1).unwrap()[..12].to_string());
    assert_eq!(same[0], same[1]);
}

#[test]
fn an_empty_list_of_images_is_said() {
    let place = trained();
    for flags in ["", "--json", "--format csv"] {
        let said = place.run(&format!("predict --checkpoint run {flags} -"));
        assert_eq!(said.code, Some(1), "{}", said.err);
        let expected =
            "error: standard input: expected paths of images, one per line, found none\n";
        assert_eq!(said.err, expected);
    }
}

#[test]
fn commands_to_copy_are_quoted() {
    let place = workplace();
    let plain = "train --preset quickstart --config tiny.toml --output";
    let said = run(&place, plain, &["my runs; it's".as_ref()]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let command = r"try: perceiver predict --checkpoint 'my runs; it'\''s' IMAGE";
    assert!(said.err.contains(command), "{}", said.err);
    std::fs::remove_file(place.path("my runs; it's/training/state.safetensors")).unwrap();
    let said = run(&place, "train --resume", &["my runs; it's".as_ref()]);
    assert!(
        said.err
            .contains(r"--resume 'my runs; it'\''s' --from-previous")
            || said
                .err
                .contains(r"--recipe 'my runs; it'\''s/training/recipe.toml'"),
        "{}",
        said.err
    );
}

#[test]
fn more_threads_than_cores_are_warned_of() {
    let place = workplace();
    let said = |threads: &str| {
        let mut summary = place.command("summary");
        let output = summary.env("RAYON_NUM_THREADS", threads).output().unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(said("1000000").contains("RAYON_NUM_THREADS=1000000: more threads than"));
    assert_eq!(said("1"), "");
}

#[test]
fn verbose_tells_the_steps() {
    let place = workplace();
    let train = "train --preset quickstart --config tiny.toml --epochs 1 --set training.seed=5";
    let said = |flags: &str, output: &str| {
        let said = place.succeed(&format!("{train} {flags} --output {output}"));
        said.err
    };
    let (plain, more, most) = (said("", "a"), said("-v", "b"), said("-vv", "c"));
    for step in [
        "reading tiny.toml",
        "recipe preset quickstart: ",
        "recipe tiny.toml: data.limit_test = 20",
        "recipe given by flags: training.epochs = 1",
        "recipe --set training.seed=5: training.seed = 5",
        "computing on cpu in f32: ",
        "attention of cross_attention",
        "writing b/training/state.safetensors: ",
    ] {
        assert!(!plain.contains(step), "{step}: {plain}");
        assert!(more.contains(step), "{step}: {more}");
    }
    assert!(
        !more.contains("mean loss of the epoch so far")
            && most.contains("mean loss of the epoch so far")
    );
    let lines = |text: &str| text.lines().count();
    assert!(lines(&plain) < lines(&more) && lines(&more) < lines(&most));
}

#[test]
fn what_was_meant_is_named() {
    let place = trained();
    place.write("lr.toml", "[training]\nlr = 1.0\n");
    place.write(
        "sweep.toml",
        "[[variant]]\nname = 'a'\nmodel.iterations = 3\n",
    );
    place.write("digits/zero/1.png", image());
    place.write("tars/train-0.tar", "");
    std::fs::create_dir_all(place.path("runs/photos-1/training")).unwrap();
    place.write("runs/photos-1/training/recipe.toml", "");
    for (arguments, meant) in [
        ("train --set training.lr=3", "training.learning_rate"),
        ("train --set num_iterations=3", "model.num_iterations"),
        ("train --config lr.toml", "training.learning_rate"),
        ("train --sweep sweep.toml", "model.num_iterations"),
        (
            "summary --set model.blocks=3",
            "model.num_transformer_blocks",
        ),
        ("train --dataset digits", "folder:digits"),
        ("train --dataset tars", "shards:tars"),
        ("train --dataset CIFAR-10", "cifar10"),
        ("train --set data.dataset=digits", "folder:digits"),
        ("evaluate --checkpoint photos-1", "runs/photos-1"),
        ("evaluate --checkpoint runs/photos", "runs/photos-1"),
        ("evaluate --checkpoint run/model.safetensors", "run"),
        ("train --resume rum", "run"),
        ("train --resume runs/photo-1", "runs/photos-1"),
        ("report runs/photos-2", "runs/photos-1"),
        ("compare run runs/photos", "runs/photos-1"),
        ("train --init-from ruin", "run"),
    ] {
        let said = place.run(arguments);
        assert_eq!(said.code, Some(2), "{arguments}: {}", said.err);
        assert!(
            said.err.contains(&format!("did you mean {meant}?")),
            "{arguments}: {}",
            said.err
        );
    }
}

#[test]
fn a_path_that_is_not_there_is_not_asked_of_the_hub() {
    let place = workplace();
    std::fs::create_dir(place.path("here")).unwrap();
    for name in [
        "runs/nope",
        "./nope",
        "~/nope",
        "/nope/nope",
        "here/nope",
        "a/b/c",
    ] {
        for command in ["evaluate --checkpoint", "train --init-from", "verify"] {
            let mut program = place.command(&format!("{command} {name}"));
            // Nobody is there, so that asking would be told of.
            let output = program
                .env("HF_ENDPOINT", "http://127.0.0.1:9")
                .output()
                .unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{command} {name}: {said}");
            let last = said.lines().last().unwrap();
            assert!(
                last.contains(&format!(" {name}: expected a directory, found none")),
                "{said}"
            );
            assert!(!said.contains("Hub"), "{said}");
        }
    }
}
