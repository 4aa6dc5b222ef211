//! Files that would keep a program waiting or take all of memory are refused by name, wherever they are met.
#![cfg(unix)]

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use perceiver_tests::program::{Said, Sandbox};

fn trained() -> Sandbox {
    let place = Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
    place.succeed("train --preset quickstart --config tiny.toml --output runs/tiny");
    place
}

fn pipe(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status();
    assert!(made.unwrap().success());
}

/// A file of so many bytes that take no room on the disk.
fn holes(path: &Path, bytes: u64) {
    File::create(path).unwrap().set_len(bytes).unwrap();
}

fn refused(said: &Said, finding: &str) {
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains(finding), "{}", said.err);
}

#[test]
fn pipes_devices_and_files_of_holes_are_no_images() {
    let place = trained();
    pipe(&place.path("pipe.png"));
    holes(&place.path("large.png"), 3 << 30);
    symlink("/dev/zero", place.path("endless.png")).unwrap();
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
        refused(
            &place.run(&format!("predict --checkpoint runs/tiny {file}")),
            finding,
        );
    }
}

#[test]
fn an_image_of_holes_in_a_class_folder_is_skipped_by_name() {
    let place = trained();
    let image = perceiver_data::Image::new(8, 8, vec![9; 192]).unwrap();
    for class in ["a", "b"] {
        fs::create_dir_all(place.path(format!("photos/{class}"))).unwrap();
        for number in 0..10 {
            let path = place.path(format!("photos/{class}/{number}.png"));
            image.write_png(&path).unwrap();
        }
    }
    holes(&place.path("photos/a/large.png"), 3 << 30);
    place.write(
        "two.toml",
        "[model]
image_size = 16
patch_size = 8
classifier_units = [2]
[training]
epochs = 1
",
    );
    let said = place.succeed(
        "train --preset quickstart --dataset folder:photos --config two.toml --output runs/two",
    );
    let finding = "large.png: expected a file of at most 512 MiB, found 3072 MiB; skipped";
    assert!(said.err.contains(finding), "{}", said.err);
}

#[test]
fn the_files_of_a_run_are_regular_and_of_bounded_size() {
    let place = trained();
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
        let path = place.path("runs/tiny").join(file);
        let was = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        pipe(&path);
        refused(&place.run(command), "found");
        // `runs` lists it, whatever it says of it.
        let _ = place.run("runs"); // it ends, whatever it says
        fs::remove_file(&path).unwrap();
        if !file.ends_with("safetensors") {
            holes(&path, 3 << 30);
            refused(&place.run(command), "MiB, found 3072 MiB");
            fs::remove_file(&path).unwrap();
        }
        fs::write(&path, was).unwrap();
    }
    place.succeed("report runs/tiny");
}
