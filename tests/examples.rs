//! The examples in every command's help, run by a shell as they stand there, beside stand-ins for what they name.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use perceiver_data::{Image, LoadOptions, Source, Split};
use perceiver_tests::program::Sandbox;

const PROGRAM: &str = env!("CARGO_BIN_EXE_perceiver-under-test");

/// The commands in the examples of a help text, of which a backslash joins two lines.
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

/// Why an example is not run here; that it can be parsed is a test of the command line's own.
fn is_left_out(example: &str) -> Option<&'static str> {
    let reasons = [
        ("--dataset cifar100", "needs a data set"),
        ("someone/", "needs the network"),
        ("me/perceiver-cifar100", "needs the network"),
        ("man -l -", "needs man"),
    ];
    let found = reasons.iter().find(|(part, _)| example.contains(part));
    found.map(|(_, reason)| *reason)
}

/// Images of four classes at `DIR/CLASS/NUMBER.jpg`.
fn folder(place: &Sandbox, name: &str) {
    for class in 0..4_u8 {
        let directory = place.path(format!("{name}/class-{class}"));
        fs::create_dir_all(&directory).unwrap();
        for number in 0..10_u8 {
            let pixel = |at: u8| 60 * class + at.wrapping_mul(number + 1) % 60;
            let image = Image::new(8, 8, (0..192).map(pixel).collect()).unwrap();
            let file = directory.join(format!("{number}.png"));
            image.write_png(&file).unwrap();
            fs::rename(&file, file.with_extension("jpg")).unwrap(); // told by its content
        }
    }
}

/// A workplace with all that the examples name, and the program as `perceiver` in `bin`.
fn workplace() -> Sandbox {
    let place = Sandbox::new(PROGRAM);
    fs::create_dir(place.path("bin")).unwrap();
    symlink(PROGRAM, place.path("bin/perceiver")).unwrap();
    for name in ["photos", "other-photos", "holiday", "moved/photos"] {
        folder(&place, name);
    }
    let shapes = Source::Shapes.load(Split::Test, &LoadOptions::default());
    let shapes = shapes.unwrap();
    for (at, name) in ["picture.png", "picture.jpg", "cat.jpg", "dog.jpg"]
        .into_iter()
        .enumerate()
    {
        let png = place.path("image.png");
        shapes.images()[at].write_png(&png).unwrap();
        fs::rename(png, place.path(name)).unwrap();
    }
    for directory in [
        ".local/share/bash-completion/completions",
        ".zfunc",
        ".config/fish/completions",
    ] {
        fs::create_dir_all(place.path(directory)).unwrap();
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden");
    let facts = fs::read(golden.join("perceiver_small.json")).unwrap();
    let facts: serde_json::Value = serde_json::from_slice(&facts).unwrap();
    let weights = golden.join("perceiver_small.safetensors");
    fs::copy(weights, place.path("w.safetensors")).unwrap();
    place.write("model.json", facts["config"].to_string());
    place.write("names.txt", "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n");
    place.write(
        "sweep.toml",
        "seeds = [0]\n[[variant]]\nname = 'plain'\n[[variant]]\nname = 'slow'\n[variant.training]\nlearning_rate = 1e-4\n",
    );
    let quickstart = "--preset quickstart --config tiny.toml";
    place.succeed(&format!("train {quickstart} -o runs/shapes-quickstart-1"));
    let of_photos = format!("train {quickstart} --dataset folder:photos");
    place.succeed(&format!(
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
            &place.path("runs/photos"),
            &place.path(format!("runs/{copy}")),
        );
    }
    place
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

/// What examples make must not be there before, and is made anew where others need it.
const MADE: [&str; 4] = ["runs/photos", "runs/again", "runs/tuned", "photo-shards"];

#[test]
fn the_examples_of_every_help_run_as_they_stand_there() {
    let place = workplace();
    let help = place.succeed("--help").out;
    let (_, commands) = help.split_once("\nCommands:\n").unwrap();
    let commands = commands.lines().take_while(|line| !line.is_empty());
    // Further lines of a command's description are further in.
    let commands = commands.filter_map(|line| line.strip_prefix("  "));
    let commands = commands.filter(|line| !line.starts_with(' '));
    let commands = commands.filter_map(|line| line.split_whitespace().next());
    let (mut run, mut left_out) = (0, 0);
    for command in commands.filter(|command| *command != "help") {
        let help = place.succeed(&format!("{command} --help")).out;
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
                    let _ = fs::remove_dir_all(place.path(made)); // most are not there
                }
            }
            // An example that trains anew does so on the stand-ins' scale.
            let own_recipe = ["--resume", "--recipe", "--init-from"];
            let own_recipe = own_recipe.iter().any(|flag| example.contains(flag));
            let anew = example.contains("perceiver train") && !own_recipe;
            let small = if anew { " --config tiny.toml" } else { "" };
            let output = Command::new("sh")
                .args(["-c", &format!("{}{small}", example.trim())])
                .current_dir(place.path("."))
                .env("HOME", place.path("."))
                .env("PATH", path_with(&place.path("bin")))
                .env_remove("RUST_LOG")
                .env("HF_HUB_OFFLINE", "1")
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{command}: {example}{said}");
            run += 1;
        }
    }
    assert!(run > 25 && left_out < 8, "{run} run, {left_out} left out");
}

fn path_with(first: &Path) -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let rest = std::env::split_paths(&path);
    std::env::join_paths(std::iter::once(first.to_path_buf()).chain(rest)).unwrap()
}
