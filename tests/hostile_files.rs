//! Files that would block the program or exhaust memory: each is rejected by name.
#![cfg(unix)]

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use perceiver_tests::program::{ProgramOutput, Sandbox};

fn trained() -> Sandbox {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
    sandbox.succeed("train --preset quickstart --config tiny.toml --output runs/tiny");
    sandbox
}

fn pipe(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status();
    assert!(made.unwrap().success());
}

/// Creates a sparse file of `bytes` bytes.
fn holes(path: &Path, bytes: u64) {
    File::create(path).unwrap().set_len(bytes).unwrap();
}

fn assert_rejected(output: &ProgramOutput, finding: &str) {
    assert_eq!(output.code, Some(1), "{}", output.err);
    assert!(output.err.contains(finding), "{}", output.err);
}

#[test]
fn pipes_devices_and_sparse_files_are_rejected_as_images() {
    let sandbox = trained();
    pipe(&sandbox.path("pipe.png"));
    holes(&sandbox.path("large.png"), 3 << 30);
    symlink("/dev/zero", sandbox.path("endless.png")).unwrap();
    for (file, finding) in [
        (
            "pipe.png",
            "pipe.png: expected a regular file, found a named pipe",
        ),
        (
            "endless.png",
            "endless.png: expected a regular file, found a device",
        ),
        (
            "/dev/zero",
            "/dev/zero: expected a regular file, found a device",
        ),
        (
            "large.png",
            "large.png: expected a file of at most 512 MiB, found 3072 MiB",
        ),
    ] {
        assert_rejected(
            &sandbox.run(&format!("predict --checkpoint runs/tiny {file}")),
            finding,
        );
    }
}

#[test]
fn sparse_image_files_in_a_class_folder_are_skipped_by_name() {
    let sandbox = trained();
    let image = perceiver_data::Image::new(8, 8, vec![9; 192]).unwrap();
    for class in ["a", "b"] {
        fs::create_dir_all(sandbox.path(format!("photos/{class}"))).unwrap();
        for number in 0..10 {
            let path = sandbox.path(format!("photos/{class}/{number}.png"));
            image.write_png(&path).unwrap();
        }
    }
    holes(&sandbox.path("photos/a/large.png"), 3 << 30);
    sandbox.write(
        "two.toml",
        "[model]
image_size = 16
patch_size = 8
classifier_units = [2]
[training]
epochs = 1
",
    );
    let output = sandbox.succeed(
        "train --preset quickstart --dataset folder:photos --config two.toml --output runs/two",
    );
    let finding = "large.png: expected a file of at most 512 MiB, found 3072 MiB; skipped";
    assert!(output.err.contains(finding), "{}", output.err);
}

#[test]
fn the_files_of_a_run_are_regular_and_of_bounded_size() {
    let sandbox = trained();
    for (file, command) in [
        ("config.json", "predict --checkpoint runs/tiny tiny.toml"),
        (
            "model.safetensors",
            "predict --checkpoint runs/tiny tiny.toml",
        ),
        ("metrics.jsonl", "report runs/tiny"),
        ("training/recipe.toml", "train --resume runs/tiny"),
        (
            "training/state.safetensors",
            "train --resume runs/tiny --epochs 2",
        ),
    ] {
        let path = sandbox.path("runs/tiny").join(file);
        let was = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        pipe(&path);
        assert_rejected(&sandbox.run(command), "found");
        // `runs` must end, whatever it reports about the run.
        let _ = sandbox.run("runs");
        fs::remove_file(&path).unwrap();
        if !file.ends_with("safetensors") {
            holes(&path, 3 << 30);
            assert_rejected(&sandbox.run(command), "MiB, found 3072 MiB");
            fs::remove_file(&path).unwrap();
        }
        fs::write(&path, was).unwrap();
    }
    sandbox.succeed("report runs/tiny");
}
