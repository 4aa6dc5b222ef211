//! Conventions of command-line programs: completions, manual pages, colours only where wanted.

use std::process::Command;

use perceiver_tests::program::{ProgramOutput, Sandbox, names_in};

fn new_sandbox() -> Sandbox {
    Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"))
}

/// Returns the commands that `--help` lists, except clap's `help`.
fn commands(sandbox: &Sandbox) -> Vec<String> {
    let help = sandbox.succeed("--help").out;
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
    let sandbox = new_sandbox();
    let commands = commands(&sandbox);
    assert!(commands.len() >= 8, "{commands:?}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = sandbox.succeed(&format!("completions {shell}")).out;
        for word in commands
            .iter()
            .map(String::as_str)
            .chain(["resume", "checkpoint"])
        {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let unknown = sandbox.run("completions tcsh");
    assert_eq!(unknown.code, Some(2));
    assert!(unknown.err.contains("bash"), "{}", unknown.err);
}

/// Loads the completion script in bash and completes with it, if bash is installed.
#[cfg(unix)]
#[test]
fn bash_takes_the_completions() {
    let sandbox = new_sandbox();
    let script = sandbox.succeed("completions bash").out;
    sandbox.write("perceiver.bash", script);
    let ask = "source ./perceiver.bash || exit 3
        COMP_WORDS=(perceiver tr) COMP_CWORD=1
        _perceiver perceiver tr perceiver
        echo \"${COMPREPLY[@]}\"";
    let bash = Command::new("bash")
        .args(["--norc", "-c", ask])
        .current_dir(sandbox.path(""))
        .output();
    let Ok(output) = bash else {
        return; // bash is not installed
    };
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        stdout.trim(),
        "train",
        "{:?}",
        String::from_utf8(output.stderr)
    );
}

#[test]
fn every_command_has_a_manual_page() {
    let sandbox = new_sandbox();
    let commands = commands(&sandbox);
    let stdout = sandbox.succeed("man --output pages/man1").out;
    assert!(
        stdout.contains(&format!("{} pages", commands.len() + 1)),
        "{stdout}"
    );
    let mut expected: Vec<String> = commands
        .iter()
        .map(|command| format!("perceiver-{command}.1"))
        .chain(["perceiver.1".to_string()])
        .collect();
    expected.sort();
    assert_eq!(names_in(&sandbox.path("pages/man1")), expected);
    for name in expected {
        let page = std::fs::read_to_string(sandbox.path("pages/man1").join(&name)).unwrap();
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
    let own = sandbox.succeed("man").out;
    assert!(
        own.contains(".SH SUBCOMMANDS") && own.contains("Exit codes:"),
        "{own}"
    );
}

#[test]
fn unwritable_manual_paths_are_named() {
    let sandbox = new_sandbox();
    sandbox.write("taken", "a file");
    let output = sandbox.run("man --output taken");
    assert_eq!(output.code, Some(1));
    assert!(output.err.contains("--output taken"), "{}", output.err);
}

/// Whether messages are coloured: the error of a failing command, and a log line.
fn has_colors(sandbox: &Sandbox, arguments: &str, variables: &[(&str, &str)]) -> [bool; 2] {
    let stderr_of = |command: &str| {
        let output = sandbox
            .command(&format!("{command} {arguments}"))
            .env_remove("NO_COLOR")
            .env_remove("CLICOLOR")
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    std::fs::create_dir_all(sandbox.path("runs")).unwrap();
    let (refused, warned) = (stderr_of("summary --preset nope"), stderr_of("runs"));
    assert!(
        refused.contains("nope") && warned.contains("no runs in"),
        "{refused}{warned}"
    );
    [refused, warned].map(|text| text.contains('\x1b'))
}

#[test]
fn colors_follow_the_terminal_and_the_environment() {
    let sandbox = new_sandbox();
    let (force, none) = (("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1"));
    assert_eq!(has_colors(&sandbox, "", &[]), [false; 2]);
    assert_eq!(has_colors(&sandbox, "", &[force]), [true; 2]);
    assert_eq!(has_colors(&sandbox, "", &[force, none]), [false; 2]);
    assert_eq!(has_colors(&sandbox, "--color always", &[none]), [true; 2]);
    assert_eq!(has_colors(&sandbox, "--color=never", &[force]), [false; 2]);
}

/// Runs a command with additional arguments, which may contain spaces.
fn run(sandbox: &Sandbox, plain: &str, more: &[&std::ffi::OsStr]) -> ProgramOutput {
    let output = sandbox.command(plain).args(more).output().unwrap();
    ProgramOutput {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Returns a sandbox with a model trained on shapes in `run`.
fn trained() -> Sandbox {
    let sandbox = new_sandbox();
    sandbox.succeed("train --quiet --preset quickstart --config tiny.toml --output run");
    sandbox
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

    use perceiver_tests::program::{ProgramOutput, Sandbox};

    use super::{image, new_sandbox, run, trained};

    /// Clears the screen, rings the bell, returns to the start of the line, forges an error,
    /// reverses the text direction, and is invalid UTF-8.
    const NAME: &[u8] = b"a\x1b[2J\x07\r\nerror: forged\xe2\x80\xae\xc2\x9b31m\xff.png";
    const CLASS: &str = "cat\u{1b}]0;owned\u{7}\nerror: forged\u{202e}";

    /// Asserts that the output contains no terminal commands, and no forged error line.
    fn assert_escaped(output: &ProgramOutput) {
        for text in [&output.out, &output.err] {
            let unsafe_character = text
                .chars()
                .find(|&c| perceiver_cli::escape::is_unsafe(c) && c != '\n');
            assert_eq!(unsafe_character, None, "{text:?}");
            assert!(
                !text.lines().any(|line| line.starts_with("error: forged")),
                "{text}"
            );
        }
    }

    #[test]
    fn file_names_are_escaped_reversibly() {
        let sandbox = trained();
        let name = OsStr::from_bytes(NAME);
        fs::write(sandbox.path(name), image()).unwrap();
        let predict = |format: &str| {
            let plain = format!("predict --checkpoint run --top-k 1 --format {format}");
            let output = run(&sandbox, &plain, &[name]);
            assert_eq!(output.code, Some(0), "{}", output.err);
            output
        };
        let shown = r"a\u{1b}[2J\u{7}\r\nerror: forged\u{202e}\u{9b}31m\xff.png";
        for format in ["text", "table"] {
            let output = predict(format);
            assert_escaped(&output);
            assert!(output.out.contains(shown), "{}", output.out);
        }
        let encoded = "a%1B%5B2J%07%0D%0Aerror%3A%20forged%E2%80%AE%C2%9B31m%FF.png";
        let output = predict("json");
        assert_escaped(&output);
        let json: serde_json::Value = serde_json::from_str(&output.out).unwrap();
        assert_eq!(json["image"], String::from_utf8_lossy(NAME).as_ref());
        assert_eq!(json["image_percent_encoded"], encoded);
        let csv = predict("csv").out; // quoted, but not escaped
        assert!(csv.starts_with("image,rank,class,probability,image_percent_encoded\n\"a\x1b"));
        assert!(csv.trim_end().ends_with(encoded), "{csv}");
    }

    #[test]
    fn errors_and_log_lines_are_one_line_each() {
        let sandbox = trained();
        let name = OsStr::from_bytes(NAME);
        for arguments in [
            "predict --checkpoint run",
            "train --dataset",
            "train --resume",
            "runs",
        ] {
            let output = run(&sandbox, arguments, &[name]);
            assert_ne!(output.code, Some(0), "{arguments}");
            assert_escaped(&output);
            let errors = output
                .err
                .lines()
                .filter(|line| line.starts_with("error: "));
            assert_eq!(errors.count(), 1, "{arguments}: {}", output.err);
        }
        // A log line that names an unreadable image of a data set.
        for (class, file) in [
            ("a", "1.png"),
            ("a", "2.png"),
            ("b", "3.png"),
            ("b", "4.png"),
        ] {
            sandbox.write(&format!("photos/{class}/{file}"), image());
        }
        fs::write(sandbox.path("photos/a").join(name), "no image").unwrap();
        let output = run(
            &sandbox,
            "train -v --dataset folder:photos --config tiny.toml --preset quickstart --output out",
            &[],
        );
        assert_escaped(&output);
        assert!(output.err.contains(r"\nerror: forged"), "{}", output.err);
    }

    #[test]
    fn class_names_of_a_model_are_escaped() {
        let sandbox = trained();
        let config = fs::read_to_string(sandbox.path("run/config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
        for index in 0..20 {
            config["id2label"][index.to_string()] = format!("{index}{CLASS}").into();
        }
        let ids = (0..20).map(|index| (format!("{index}{CLASS}"), index.into()));
        config["label2id"] = serde_json::Value::Object(ids.collect());
        sandbox.write("run/config.json", config.to_string());
        sandbox.write("1.png", image());
        for format in ["text", "table", "json"] {
            let output =
                sandbox.succeed(&format!("predict --checkpoint run --format {format} 1.png"));
            assert_escaped(&output);
            assert!(output.out.contains("owned"), "{}", output.out);
        }
        let output = sandbox.run("evaluate --checkpoint run");
        assert_eq!(output.code, Some(1)); // its classes differ from those of the data set
        assert_escaped(&output);
    }

    /// Text in archives is covered by the tests of the shards.
    #[test]
    fn text_of_a_weights_file_is_escaped() {
        let sandbox = trained();
        let header = "{\"a\u{1b}[2J\\nerror: forged\":{\"dtype\":\"F9\",\"shape\":[1],\"data_offsets\":[0,4]}}";
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([0; 4]);
        sandbox.write("run/model.safetensors", bytes);
        sandbox.write("1.png", image());
        let output = sandbox.run("predict --checkpoint run 1.png");
        assert_eq!(output.code, Some(1));
        assert_escaped(&output);
    }

    #[test]
    fn a_run_of_any_name_is_listed_and_its_command_is_quoted() {
        let sandbox: Sandbox = new_sandbox();
        let name = OsStr::from_bytes(b"a b;\x1b\xff");
        let plain = "train --quiet --preset quickstart --config tiny.toml --output";
        assert_eq!(run(&sandbox, plain, &[name]).code, Some(0));
        fs::remove_file(sandbox.path(name).join("results.json")).unwrap();
        let output = sandbox.succeed("runs .");
        assert_escaped(&output);
        assert!(output.out.contains(r"a b;\u{1b}\xff"), "{}", output.out);
        let command = r"resume with: perceiver train --resume $'./a b;\x1b\xff'";
        assert!(output.out.contains(command), "{}", output.out);
        let json = sandbox.succeed("runs . --json").out;
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json[0]["run_percent_encoded"], "./a%20b%3B%1B%FF");
    }
}

/// Opens a file to which every write fails, as on a full disk.
#[cfg(target_os = "linux")]
fn full() -> std::fs::File {
    std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn unwritable_log_output_is_dropped() {
    let sandbox = new_sandbox();
    let unheard = |arguments: &str| {
        let status = sandbox.command(arguments).stderr(full()).status().unwrap();
        status.code()
    };
    let train = "train -vv --preset quickstart --config tiny.toml --epochs 2 --output run";
    assert_eq!(unheard(train), Some(0));
    assert!(sandbox.path("run/results.json").exists());
    assert_eq!(unheard("predict --checkpoint run nope.png"), Some(1));
    assert_eq!(unheard("train --preset nope"), Some(2));
    assert_eq!(unheard("train --resume nowhere"), Some(2));
    assert_eq!(unheard("runs"), Some(2));
}

#[cfg(target_os = "linux")]
#[test]
fn results_that_cannot_be_written_are_an_error() {
    let sandbox = trained();
    sandbox.write("1.png", image());
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
        let output = sandbox.command(arguments).stdout(full()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments}: {stderr}");
        assert!(
            stderr.contains("error: cannot write to standard output"),
            "{arguments}: {stderr}"
        );
    }
}

#[test]
fn a_reader_that_closes_the_pipe_is_no_error() {
    let sandbox = new_sandbox();
    for arguments in ["--help", "completions bash", "summary"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = sandbox.command(arguments).stdout(writer).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments}");
        assert_eq!(output.stderr, b"", "{arguments}");
    }
}

#[test]
fn out_of_range_flags_exit_with_2() {
    let sandbox = trained();
    sandbox.write("1.png", image());
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
        let output = sandbox.run(arguments);
        assert_eq!(output.code, Some(2), "{arguments}: {}", output.err);
    }
    assert!(!sandbox.path("runs").exists() && !sandbox.path("a.png").exists());
}

#[test]
fn any_integer_is_a_valid_seed() {
    let sandbox = new_sandbox();
    let train = "train --quiet --preset quickstart --config tiny.toml";
    sandbox.succeed(&format!("{train} --seed 9223372036854775808 --output run"));
    sandbox.succeed("train --quiet --resume run --epochs 2");
    sandbox.succeed("evaluate --checkpoint run");
    sandbox.succeed(&format!(
        "{train} --set training.seed=18446744073709551615 --output set"
    ));
    sandbox.write(
        "sweep.toml",
        "seeds = [1, '9223372036854775808']\n[[variant]]\nname = 'a'\n",
    );
    sandbox.succeed(&format!("{train} --sweep sweep.toml --output sweep"));
    let same = ["run", "sweep/a-seed9223372036854775808"]
        .map(|run| std::fs::read_to_string(sandbox.path(run).join("metrics.jsonl")).unwrap())
        .map(|metrics| metrics.split("\"val_loss\":").nth(1).unwrap()[..12].to_string());
    assert_eq!(same[0], same[1]);
}

#[test]
fn empty_image_lists_are_reported() {
    let sandbox = trained();
    for flags in ["", "--json", "--format csv"] {
        let output = sandbox.run(&format!("predict --checkpoint run {flags} -"));
        assert_eq!(output.code, Some(1), "{}", output.err);
        let expected =
            "error: standard input: expected paths of images, one per line, found none\n";
        assert_eq!(output.err, expected);
    }
}

#[test]
fn commands_to_copy_are_quoted() {
    let sandbox = new_sandbox();
    let plain = "train --preset quickstart --config tiny.toml --output";
    let output = run(&sandbox, plain, &["my runs; it's".as_ref()]);
    assert_eq!(output.code, Some(0), "{}", output.err);
    let command = r"try: perceiver predict --checkpoint 'my runs; it'\''s' IMAGE";
    assert!(output.err.contains(command), "{}", output.err);
    std::fs::remove_file(sandbox.path("my runs; it's/training/state.safetensors")).unwrap();
    let output = run(&sandbox, "train --resume", &["my runs; it's".as_ref()]);
    assert!(
        output
            .err
            .contains(r"--resume 'my runs; it'\''s' --from-previous")
            || output
                .err
                .contains(r"--recipe 'my runs; it'\''s/training/recipe.toml'"),
        "{}",
        output.err
    );
}

#[test]
fn more_threads_than_cores_give_a_warning() {
    let sandbox = new_sandbox();
    let stderr_of = |threads: &str| {
        let mut summary = sandbox.command("summary");
        let output = summary.env("RAYON_NUM_THREADS", threads).output().unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(stderr_of("1000000").contains("RAYON_NUM_THREADS=1000000: more threads than"));
    assert_eq!(stderr_of("1"), "");
}

#[test]
fn verbose_logs_the_steps() {
    let sandbox = new_sandbox();
    let train = "train --preset quickstart --config tiny.toml --epochs 1 --set training.seed=5";
    let stderr_of = |flags: &str, run: &str| {
        let output = sandbox.succeed(&format!("{train} {flags} --output {run}"));
        output.err
    };
    let (plain, more, most) = (
        stderr_of("", "a"),
        stderr_of("-v", "b"),
        stderr_of("-vv", "c"),
    );
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
fn errors_suggest_the_closest_name() {
    let sandbox = trained();
    sandbox.write("lr.toml", "[training]\nlr = 1.0\n");
    sandbox.write(
        "sweep.toml",
        "[[variant]]\nname = 'a'\nmodel.iterations = 3\n",
    );
    sandbox.write("digits/zero/1.png", image());
    sandbox.write("tars/train-0.tar", "");
    std::fs::create_dir_all(sandbox.path("runs/photos-1/training")).unwrap();
    sandbox.write("runs/photos-1/training/recipe.toml", "");
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
        let output = sandbox.run(arguments);
        assert_eq!(output.code, Some(2), "{arguments}: {}", output.err);
        assert!(
            output.err.contains(&format!("did you mean {meant}?")),
            "{arguments}: {}",
            output.err
        );
    }
}

#[test]
fn missing_paths_are_not_requested_from_the_hub() {
    let sandbox = new_sandbox();
    std::fs::create_dir(sandbox.path("here")).unwrap();
    for name in [
        "runs/nope",
        "./nope",
        "~/nope",
        "/nope/nope",
        "here/nope",
        "a/b/c",
    ] {
        for command in ["evaluate --checkpoint", "train --init-from", "verify"] {
            let mut program = sandbox.command(&format!("{command} {name}"));
            // No server listens there, so a request would be reported.
            let output = program
                .env("HF_ENDPOINT", "http://127.0.0.1:9")
                .output()
                .unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{command} {name}: {stderr}");
            let last = stderr.lines().last().unwrap();
            assert!(
                last.contains(&format!(" {name}: expected a directory, found none")),
                "{stderr}"
            );
            assert!(!stderr.contains("Hub"), "{stderr}");
        }
    }
}
