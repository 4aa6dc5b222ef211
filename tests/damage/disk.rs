//! Full disks and paths that cannot be written.

use std::fs;

#[cfg(unix)]
use perceiver_tests::run::{Run, finished};

#[cfg(unix)]
use crate::files;
use crate::{assert_mentions, refused, trained};

/// A limit on the file size acts like a full disk: writes fail halfway.
#[cfg(unix)]
#[test]
fn a_full_disk_keeps_everything_that_was_saved() {
    let expected = trained();
    let run = Run::new(env!("CARGO_BIN_EXE_perceiver-under-test"), "");
    fs::copy(
        expected.sandbox.path("tiny.toml"),
        run.sandbox.path("tiny.toml"),
    )
    .unwrap();
    let limited = |program: &std::process::Command, blocks: usize| {
        let mut shell = std::process::Command::new("sh");
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        shell.arg("-c").arg(script).arg(program.get_program());
        shell
            .args(program.get_args())
            .current_dir(run.sandbox.path(""));
        shell.output().unwrap()
    };
    // Enough for the weights but not for the state, with `ulimit` blocks of 512 or 1024 bytes.
    let blocks = expected.weights().len() / 512 + 2;
    let state = run.path("training/state.safetensors");
    assert!(
        fs::metadata(expected.path("training/state.safetensors"))
            .unwrap()
            .len() as usize
            > 1024 * blocks
    );
    let output = limited(&run.start(), blocks);
    assert_eq!(output.status.code(), Some(1));
    assert!(!state.exists() && run.path("training/recipe.toml").exists());

    for more in ["", "--epochs 2"] {
        let stderr = String::from_utf8(limited(&run.resume(more), blocks).stderr).unwrap();
        let way = [
            "state.safetensors",
            "free disk space, then resume with: perceiver train --resume run",
        ];
        assert_mentions(&stderr, &way, "nothing saved yet");
    }
    // After one saved epoch, the disk is full.
    finished(run.resume("--epochs 1"));
    let saved = fs::read(&state).unwrap();
    let output = limited(&run.resume("--epochs 3"), blocks);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_mentions(
        &stderr,
        &[
            "cannot write run/training/state.safetensors",
            "free disk space",
        ],
        "full",
    );
    assert!(fs::read(&state).unwrap() == saved, "the state was touched");
    let left: Vec<_> = files(&run.path("")).into_keys().collect();
    assert!(
        left.iter()
            .all(|path| !path.to_string_lossy().contains(".writing")),
        "{left:?}"
    );
    finished(run.resume(""));
    run.assert_same_end(&expected);
}

#[test]
fn unwritable_paths_are_named() {
    let run = trained();
    run.sandbox.write("file", "not a directory");
    let start =
        "train --preset quickstart --dataset folder:photos --config tiny.toml --output file/run";
    let stderr = refused(&run, start, "below a file");
    assert_mentions(
        &stderr,
        &["cannot create file/run/training", "another --output"],
        "below a file",
    );

    #[cfg(unix)]
    {
        use std::fs::{Permissions, set_permissions};
        use std::os::unix::fs::PermissionsExt;

        let training = run.path("training");
        set_permissions(&training, Permissions::from_mode(0o555)).unwrap();
        let binds = fs::write(training.join("probe"), "").is_err(); // root ignores permissions
        if binds {
            let stderr = refused(&run, "train --resume run --epochs 9", "read-only");
            assert_mentions(
                &stderr,
                &["cannot write run/training/", "allow reading and writing"],
                "read-only",
            );
        }
        set_permissions(&training, Permissions::from_mode(0o755)).unwrap();
    }
}
