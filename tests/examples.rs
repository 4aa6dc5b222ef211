//! Runs the examples of every command's help verbatim in a shell, with stand-ins for the files
//! that they name.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use perceiver_data::{Image, LoadOptions, Source, Split};
use perceiver_tests::program::Sandbox;

const PROGRAM: &str = env!("CARGO_BIN_EXE_perceiver-under-test");

/// Returns the commands in the examples of a help text, with backslash continuations joined.
fn examples(help: &str) -> Vec<String> {
    let (_, examples) = help.split_once("\nExamples:\n").expect(help);
    let mut commands = vec![String::new()];
    for line in examples.lines() {
        let command = commands.last_mut().unwrap();
        command.push_str(line);
        command.push('\n');
        if !line.ends_with('\\') {
            commands.push(String::new());
        }
    }
    commands.retain(|command| !command.trim().is_empty());
    commands
}

/// Returns the reason for not running an example, if any. A test of `perceiver-cli` parses it.
fn is_left_out(example: &str) -> Option<&'static str> {
    let reasons = [
        ("--dataset cifar100", "needs a data set"),
        ("someone/", "needs the network"),
        ("me/perceiver-cifar100", "needs the network"),
        ("man -l -", "needs man"),
        ("perceiver serve", "runs until it is stopped"),
        ("perceiver watch", "runs until it is stopped"),
    ];
    let entry = reasons.iter().find(|(part, _)| example.contains(part));
    entry.map(|(_, reason)| *reason)
}

/// Writes images of four classes to `DIR/CLASS/NUMBER.jpg`.
fn folder(sandbox: &Sandbox, name: &str) {
    for class in 0..4_u8 {
        let directory = sandbox.path(format!("{name}/class-{class}"));
        fs::create_dir_all(&directory).unwrap();
        for number in 0..10_u8 {
            let pixel = |at: u8| 60 * class + at.wrapping_mul(number + 1) % 60;
            let image = Image::new(8, 8, (0..192).map(pixel).collect()).unwrap();
            let file = directory.join(format!("{number}.png"));
            image.write_png(&file).unwrap();
            fs::rename(&file, file.with_extension("jpg")).unwrap(); // detected by content
        }
    }
}

/// Returns a sandbox with all files that the examples name, and the program as `bin/perceiver`.
fn new_sandbox() -> Sandbox {
    let sandbox = Sandbox::new(PROGRAM);
    fs::create_dir(sandbox.path("bin")).unwrap();
    symlink(PROGRAM, sandbox.path("bin/perceiver")).unwrap();
    for name in ["photos", "other-photos", "holiday", "moved/photos"] {
        folder(&sandbox, name);
    }
    let shapes = Source::Shapes.load(Split::Test, &LoadOptions::default());
    let shapes = shapes.unwrap();
    for (at, name) in ["picture.png", "picture.jpg", "cat.jpg", "dog.jpg"]
        .into_iter()
        .enumerate()
    {
        let png = sandbox.path("image.png");
        shapes.images()[at].write_png(&png).unwrap();
        fs::rename(png, sandbox.path(name)).unwrap();
    }
    for directory in [
        ".local/share/bash-completion/completions",
        ".zfunc",
        ".config/fish/completions",
    ] {
        fs::create_dir_all(sandbox.path(directory)).unwrap();
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden");
    let facts = fs::read(golden.join("perceiver_small.json")).unwrap();
    let facts: serde_json::Value = serde_json::from_slice(&facts).unwrap();
    let weights = golden.join("perceiver_small.safetensors");
    fs::copy(weights, sandbox.path("w.safetensors")).unwrap();
    sandbox.write("model.json", facts["config"].to_string());
    sandbox.write("names.txt", "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n");
    sandbox.write(
        "sweep.toml",
        "seeds = [0]\n[[variant]]\nname = 'plain'\n[[variant]]\nname = 'slow'\n[variant.training]\nlearning_rate = 1e-4\n",
    );
    let quickstart = "--preset quickstart --config tiny.toml";
    sandbox.succeed(&format!("train {quickstart} -o runs/shapes-quickstart-1"));
    let of_photos = format!("train {quickstart} --dataset folder:photos");
    sandbox.succeed(&format!(
        "{of_photos} --limit-train 24 --limit-test 8 -o runs/photos"
    ));
    let copies = [
        "photos-1",
        "photos-2",
        "mine",
        "other",
        "cifar",
        "comparison/a",
    ];
    for copy in copies {
        copy_directory(
            &sandbox.path("runs/photos"),
            &sandbox.path(format!("runs/{copy}")),
        );
    }
    sandbox
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Outputs of examples, which are removed before another example writes them.
const MADE: [&str; 4] = ["runs/photos", "runs/again", "runs/tuned", "photo-shards"];

#[test]
fn help_examples_run_verbatim() {
    let sandbox = new_sandbox();
    let help = sandbox.succeed("--help").out;
    let (_, commands) = help.split_once("\nCommands:\n").unwrap();
    let commands = commands.lines().take_while(|line| !line.is_empty());
    // Continuation lines of a command's description are indented further.
    let commands = commands.filter_map(|line| line.strip_prefix("  "));
    let commands = commands.filter(|line| !line.starts_with(' '));
    let commands = commands.filter_map(|line| line.split_whitespace().next());
    let (mut run, mut left_out) = (0, 0);
    for command in commands.filter(|command| *command != "help") {
        let help = sandbox.succeed(&format!("{command} --help")).out;
        for example in examples(&help) {
            if is_left_out(&example).is_some() {
                left_out += 1;
                continue;
            }
            for made in MADE {
                if ["-o", "--output"]
                    .iter()
                    .any(|flag| example.contains(&format!("{flag} {made}")))
                {
                    let _ = fs::remove_dir_all(sandbox.path(made)); // most do not exist
                }
            }
            // Examples that train a new model use a small recipe.
            let own_recipe = ["--resume", "--recipe", "--init-from"];
            let own_recipe = own_recipe.iter().any(|flag| example.contains(flag));
            let anew = example.contains("perceiver train") && !own_recipe;
            let small = if anew { " --config tiny.toml" } else { "" };
            let output = Command::new("sh")
                .args(["-c", &format!("{}{small}", example.trim())])
                .current_dir(sandbox.path("."))
                .env("HOME", sandbox.path("."))
                .env("PATH", path_with(&sandbox.path("bin")))
                .env_remove("RUST_LOG")
                .env("HF_HUB_OFFLINE", "1")
                .output()
                .unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{command}: {example}{stderr}");
            run += 1;
        }
    }
    assert!(run > 25 && left_out < 12, "{run} run, {left_out} left out");
}

fn path_with(first: &Path) -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let rest = std::env::split_paths(&path);
    std::env::join_paths(std::iter::once(first.to_path_buf()).chain(rest)).unwrap()
}
