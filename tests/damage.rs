//! Damaged files of a run: each is detected and named, no other file changes, and a remedy exists.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use perceiver_tests::digest::hex;
use perceiver_tests::run::{Run, finished, several_epochs};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// Returns a short run whose state has every kind of tensor.
fn trained() -> Run {
    let run = Run::new(
        env!("CARGO_BIN_EXE_perceiver-under-test"),
        "ema_decay = 0.9\n",
    );
    let recipe =
        several_epochs().replace("epochs = 6\nbatch_size = 7", "epochs = 3\nbatch_size = 25");
    run.sandbox.write("tiny.toml", recipe + "ema_decay = 0.9\n");
    finished(run.start());
    run
}

/// Returns every file below a directory, with its content.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.append(&mut files(&path));
        } else {
            all.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    all
}

/// Restores the files of a directory.
fn restore(directory: &Path, was: &BTreeMap<PathBuf, Vec<u8>>) {
    for path in files(directory).into_keys() {
        fs::remove_file(path).unwrap();
    }
    for (path, content) in was {
        fs::write(path, content).unwrap();
    }
}

/// The parts of a safetensors file: its metadata, and each tensor with type, shape and bytes.
struct Parts {
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, (String, Vec<u64>, Vec<u8>)>,
}

/// Returns the JSON header, and the offset of the tensor data.
fn header(file: &[u8]) -> (Map<String, Value>, usize) {
    let (length, rest) = file.split_first_chunk().unwrap();
    let length = u64::from_le_bytes(*length) as usize;
    (serde_json::from_slice(&rest[..length]).unwrap(), 8 + length)
}

/// Returns the byte range of a tensor in the file.
fn byte_range(file: &[u8], name: &str) -> (usize, usize) {
    let (header, begin) = header(file);
    let offset = |end: usize| header[name]["data_offsets"][end].as_u64().unwrap() as usize;
    (begin + offset(0), begin + offset(1))
}

impl Parts {
    fn of(file: &[u8]) -> Self {
        let (mut header, _) = header(file);
        let metadata = header.remove("__metadata__").unwrap();
        let tensors = header.into_iter().map(|(name, entry)| {
            let (from, to) = byte_range(file, &name);
            let shape = entry["shape"].as_array().unwrap().iter();
            let shape = shape.map(|dimension| dimension.as_u64().unwrap()).collect();
            let kind = entry["dtype"].as_str().unwrap().to_string();
            (name, (kind, shape, file[from..to].to_vec()))
        });
        Self {
            tensors: tensors.collect(),
            metadata: serde_json::from_value(metadata).unwrap(),
        }
    }

    /// Returns the file with a valid checksum, as `checksummed_file.rs` defines it.
    fn sealed(mut self) -> Vec<u8> {
        fn number(hash: &mut Sha256, number: u64) {
            hash.update(number.to_le_bytes());
        }
        fn field(hash: &mut Sha256, bytes: &[u8]) {
            number(hash, bytes.len() as u64);
            hash.update(bytes);
        }
        self.metadata.remove("sha256");
        let mut hash = Sha256::new();
        number(&mut hash, self.metadata.len() as u64);
        for text in self.metadata.iter().flat_map(|(key, value)| [key, value]) {
            field(&mut hash, text.as_bytes());
        }
        for (name, (kind, shape, bytes)) in &self.tensors {
            field(&mut hash, name.as_bytes());
            field(&mut hash, kind.as_bytes());
            number(&mut hash, shape.len() as u64);
            for &dimension in shape {
                number(&mut hash, dimension);
            }
            field(&mut hash, bytes);
        }
        self.metadata
            .insert("sha256".to_string(), hex(&hash.finalize()));
        self.unsealed()
    }

    /// Returns the file with its metadata unchanged, including the old checksum.
    fn unsealed(self) -> Vec<u8> {
        let mut header = Map::from_iter([("__metadata__".to_string(), json!(self.metadata))]);
        let mut data = Vec::new();
        for (name, (kind, shape, bytes)) in self.tensors {
            let offsets = [data.len(), data.len() + bytes.len()];
            data.extend(bytes);
            let entry = json!({ "dtype": kind, "shape": shape, "data_offsets": offsets });
            header.insert(name, entry);
        }
        let header = serde_json::to_vec(&header).unwrap();
        let length = (header.len() as u64).to_le_bytes();
        [length.as_slice(), &header, &data].concat()
    }

    fn tensor(&mut self, name: &str) -> &mut (String, Vec<u64>, Vec<u8>) {
        self.tensors.get_mut(name).unwrap()
    }

    /// Modifies the JSON of a state's progress.
    fn progress(&mut self, change: impl FnOnce(&mut Value)) {
        let text = self.metadata.get_mut("progress").unwrap();
        let mut progress = serde_json::from_str(text).unwrap();
        change(&mut progress);
        *text = progress.to_string();
    }
}

/// A kind of damage to a safetensors file: its name, the change, and the expected error.
type Damage = (&'static str, Box<dyn Fn(&[u8]) -> Vec<u8>>, &'static str);

fn damage(
    what: &'static str,
    change: impl Fn(&[u8]) -> Vec<u8> + 'static,
    message: &'static str,
) -> Damage {
    (what, Box::new(change), message)
}

fn cut(what: &'static str, length: impl Fn(&[u8]) -> usize + 'static) -> Damage {
    let change = move |file: &[u8]| file[..length(file)].to_vec();
    damage(what, change, "is damaged or invalid")
}

fn flipped(what: &'static str, byte: impl Fn(&[u8]) -> usize + 'static) -> Damage {
    let change = move |file: &[u8]| {
        let mut file = file.to_vec();
        let byte = byte(&file);
        file[byte] ^= 1;
        file
    };
    damage(what, change, "is damaged or invalid")
}

/// A change with a recomputed checksum.
fn resealed(what: &'static str, change: fn(&mut Parts), message: &'static str) -> Damage {
    let change = move |file: &[u8]| {
        let mut parts = Parts::of(file);
        change(&mut parts);
        parts.sealed()
    };
    damage(what, change, message)
}

fn position(file: &[u8], text: &str) -> usize {
    let mut windows = file.windows(text.len());
    windows
        .position(|window| window == text.as_bytes())
        .unwrap()
}

/// Returns the kinds of damage that apply to weights and states alike.
fn to_any_file() -> Vec<Damage> {
    let sum = "content with sha256";
    vec![
        cut("emptied", |_| 0),
        cut("cut in the header's length", |_| 4),
        cut("cut in the header", |_| 100),
        cut("cut after the header", |file| header(file).1),
        cut("cut in half", |file| file.len() / 2),
        cut("cut by a byte", |file| file.len() - 1),
        damage(
            "longer",
            |file| [file, b"!"].concat(),
            "is damaged or invalid",
        ),
        damage(
            "another file",
            |_| b"not a tensor in it".to_vec(),
            "is damaged or invalid",
        ),
        flipped("flipped in the header's length", |_| 0),
        flipped("flipped in the header's length, high", |_| 7),
        flipped("flipped in the header", |file| position(file, "dtype")),
        flipped("flipped in a shape", |file| {
            position(file, "\"shape\":[") + 9
        }),
        flipped("flipped in the checksum", |file| {
            position(file, "sha256\":\"") + 12
        }),
        flipped("flipped in the last byte", |file| file.len() - 1),
        damage(
            "without a checksum",
            |file| {
                let mut parts = Parts::of(file);
                parts.metadata.remove("sha256");
                parts.unsealed()
            },
            "with a sha256 in its metadata, found none",
        ),
        damage(
            "a tensor renamed",
            |file| {
                let mut parts = Parts::of(file);
                let (name, tensor) = parts.tensors.pop_first().unwrap();
                parts.tensors.insert(name + "2", tensor);
                parts.unsealed()
            },
            sum,
        ),
    ]
}

/// Returns the kinds of damage that apply to a state, including those of any file.
fn to_a_state() -> Vec<Damage> {
    let begin_of = |name: &'static str| move |file: &[u8]| byte_range(file, name).0;
    let mut all = to_any_file();
    all.extend([
        flipped("flipped in its progress", |file| {
            position(file, "learning_rate")
        }),
        flipped("flipped in the parameters", begin_of("parameters.latents")),
        flipped("flipped in the best weights", begin_of("best.latents")),
        flipped(
            "flipped in the first moments",
            begin_of("optimizer.first.latents"),
        ),
        flipped(
            "flipped in the second moments",
            begin_of("optimizer.second.latents"),
        ),
        flipped("flipped in the averages", begin_of("averages.latents")),
        resealed(
            "of a later format",
            |parts| parts.progress(|progress| progress["format"] = 3.into()),
            "format 3, but this program reads format 2",
        ),
        resealed(
            "without its progress",
            |parts| drop(parts.metadata.remove("progress")),
            "no progress in its metadata",
        ),
        resealed(
            "without a parameter",
            |parts| drop(parts.tensors.remove("parameters.latents")),
            "latents is missing",
        ),
        resealed(
            "without a moment",
            |parts| drop(parts.tensors.remove("optimizer.second.latents")),
            "optimizer.second.latents of shape none instead of [4, 8]",
        ),
        resealed(
            "with a moment of nothing",
            |parts| {
                let moment = parts.tensors["optimizer.first.latents"].clone();
                parts.tensors.insert("optimizer.first.other".into(), moment);
            },
            "tensors optimizer.* instead of",
        ),
        resealed(
            "with a renamed parameter",
            |parts| {
                let tensor = parts.tensors.remove("parameters.latents").unwrap();
                parts.tensors.insert("parameters.latent".into(), tensor);
            },
            "latents is missing",
        ),
        resealed(
            "with a tensor of no kind",
            |parts| {
                let tensor = parts.tensors.remove("best.latents").unwrap();
                parts.tensors.insert("worst.latents".into(), tensor);
            },
            "unknown tensor worst.latents",
        ),
        resealed(
            "with a tensor of another type",
            |parts| parts.tensor("best.latents").0 = "U32".into(),
            "best.latents of type U32 instead of F32",
        ),
        resealed(
            "with a parameter of another shape",
            |parts| parts.tensor("parameters.latents").1 = vec![8, 4],
            "latents: expected shape [4, 8], found [8, 4]",
        ),
        resealed(
            "with a parameter that is no number",
            |parts| set_value(parts, "parameters.latents", 3, f32::NAN),
            "latents: expected finite numbers, found NaN at position 3 of 32",
        ),
        resealed(
            "with an average that is no number",
            |parts| set_value(parts, "averages.latents", 0, f32::INFINITY),
            "averages.latents: expected finite numbers, found inf at position 0 of 32",
        ),
        resealed(
            "with averages of another shape",
            |parts| parts.tensor("averages.latents").1 = vec![32],
            "averages.latents of shape [32] instead of [4, 8]",
        ),
        resealed(
            "of another architecture",
            |parts| recipe_of_state(parts, "latent_dim = 4", "latent_dim = 5"),
            "model.latent_dim is 4, but 5 in the saved training state",
        ),
        resealed(
            "of another recipe",
            |parts| recipe_of_state(parts, "learning_rate = 0.01", "learning_rate = 0.02"),
            "training.learning_rate is 0.01, but 0.02 in the saved training state",
        ),
    ]);
    all
}

/// Sets one value of a tensor.
fn set_value(parts: &mut Parts, tensor: &str, at: usize, value: f32) {
    parts.tensor(tensor).2[4 * at..4 * at + 4].copy_from_slice(&value.to_le_bytes());
}

fn recipe_of_state(parts: &mut Parts, from: &str, to: &str) {
    parts.progress(|progress| {
        let recipe = progress["recipe"].as_str().unwrap().to_string();
        assert!(recipe.contains(from), "{recipe}");
        progress["recipe"] = recipe.replacen(from, to, 1).into();
    });
}

/// Runs a command that must fail without changing a file, and returns its error message.
fn refused(run: &Run, arguments: &str, what: &str) -> String {
    let before = files(&run.path(""));
    let output = run.sandbox.run(arguments);
    assert_eq!(output.code, Some(1), "{what}: {}", output.err);
    assert!(!output.err.contains("panicked"), "{what}: {}", output.err);
    assert!(files(&run.path("")) == before, "{what}: a file was changed");
    output.err
}

fn assert_mentions(message: &str, parts: &[&str], what: &str) {
    for part in parts {
        assert!(
            message.contains(part),
            "{what}: expected {part:?} in {message}"
        );
    }
}

#[test]
fn damaged_states_are_rejected_and_the_previous_one_gives_the_same_result() {
    let run = trained();
    let (root, state) = (run.path(""), run.path("training/state.safetensors"));
    let whole = files(&root);
    let (metrics, results) = (run.metrics(), run.results());
    let good = &whole[&state];
    for (what, change, finding) in to_a_state() {
        let damaged = change(good);
        assert!(&damaged != good, "{what}: nothing was changed");
        fs::write(&state, &damaged).unwrap();
        let stderr = refused(&run, "train --resume run", what);
        let offer = "state.previous.safetensors, is intact (2 epochs and 0 steps); resume from it with: perceiver train --resume run --from-previous";
        assert_mentions(&stderr, &[finding, "run/training/", offer], what);

        finished(run.resume("--from-previous"));
        assert!(
            run.weights() == whole[&run.path("model.safetensors")],
            "{what}: other weights"
        );
        assert_eq!(
            (run.metrics(), run.results()),
            (metrics.clone(), results.clone()),
            "{what}"
        );
        let aside = fs::read(run.path("training/state.aside-1.safetensors"));
        assert!(
            aside.unwrap() == damaged,
            "{what}: the damaged state was not kept"
        );
        restore(&root, &whole);
    }
}

#[test]
fn a_missing_state_differs_from_a_run_without_states() {
    let run = trained();
    let state = run.path("training/state.safetensors");
    fs::remove_file(&state).unwrap();
    let stderr = refused(&run, "train --resume run", "gone");
    assert_mentions(
        &stderr,
        &["state.safetensors", "no such file", "--from-previous"],
        "gone",
    );
    let weights = run.weights();
    finished(run.resume("--from-previous"));
    assert!(run.weights() == weights && state.exists());
}

#[test]
fn without_a_valid_state_the_weights_are_kept_and_a_new_run_is_suggested() {
    let run = trained();
    for file in ["state.safetensors", "state.previous.safetensors"] {
        fs::write(run.path("training").join(file), "no more").unwrap();
        let after = ["train --resume run", "train --resume run --from-previous"];
        for arguments in after
            .iter()
            .take(if file.contains("previous") { 2 } else { 0 })
        {
            let stderr = refused(&run, arguments, arguments);
            let way = [
                "no other intact state",
                "run/model.safetensors",
                "--recipe run/training/recipe.toml",
            ];
            assert_mentions(&stderr, &way, arguments);
        }
    }
    run.sandbox.succeed("evaluate --checkpoint run");
}

/// Weights and configuration are derived from the state, so resuming writes them again.
#[test]
fn damaged_checkpoints_are_rejected_and_resuming_repairs_them() {
    let run = trained();
    let whole = files(&run.path(""));
    let mut all: Vec<(&str, Damage)> = Vec::new();
    let other_shape = |parts: &mut Parts| parts.tensor("latents").1 = vec![8, 4];
    let without = |parts: &mut Parts| drop(parts.tensors.remove("latents"));
    let text = |what, from: &'static str, to: &'static str, message| {
        let change = move |file: &[u8]| {
            let text = std::str::from_utf8(file).unwrap();
            text.replacen(from, to, 1).into_bytes()
        };
        damage(what, change, message)
    };
    let weights = [
        flipped("flipped in a weight", |file| byte_range(file, "latents").0),
        resealed(
            "of another shape",
            other_shape,
            "expected shape [4, 8], found [8, 4]",
        ),
        resealed("without a weight", without, "latents is missing"),
        resealed(
            "of a training that diverged",
            |parts| set_value(parts, "latents", 3, f32::NAN),
            "latents: expected finite numbers, found NaN at position 3 of 32",
        ),
        resealed(
            "with an infinite weight",
            |parts| set_value(parts, "latents", 31, f32::NEG_INFINITY),
            "latents: expected finite numbers, found -inf at position 31 of 32",
        ),
        resealed(
            "of integers",
            |parts| parts.tensor("latents").0 = "I32".into(),
            "latents: expected a floating-point type such as F32, found I32",
        ),
    ];
    let config = [
        text("no JSON", "{", "[", "is damaged or invalid"),
        text(
            "another model's",
            "perceiver-image",
            "vit-image",
            "vit-image",
        ),
        text(
            "of a later format",
            "\"format\": 3",
            "\"format\": 9",
            "in format 9",
        ),
        text(
            "without a class",
            "\"0\": \"class-0\",",
            "",
            "id2label with key 1 instead of 0",
        ),
        text(
            "of another width",
            "\"latent_dim\": 4",
            "\"latent_dim\": 5",
            "[5, 8], found [4, 8]",
        ),
    ];
    all.extend(
        to_any_file()
            .into_iter()
            .chain(weights)
            .map(|damage| ("model.safetensors", damage)),
    );
    all.extend(config.map(|damage| ("config.json", damage)));
    let gone = |_: &[u8]| Vec::new();
    all.push(("model.safetensors", damage("gone", gone, "cannot read")));
    all.push(("config.json", damage("gone", gone, "cannot read")));
    for (file, (what, change, finding)) in all {
        let path = run.path(file);
        fs::write(&path, change(&whole[&path])).unwrap();
        assert!(
            fs::read(&path).unwrap() != whole[&path],
            "{what}: nothing was changed"
        );
        if what == "gone" {
            fs::remove_file(&path).unwrap();
        }
        let what = format!("{file} {what}");
        let stderr = refused(&run, "evaluate --checkpoint run", &what);
        assert_mentions(
            &stderr,
            &[finding, "run/", "`perceiver train --resume run` writes"],
            &what,
        );
        finished(run.resume(""));
        assert!(
            files(&run.path("")) == whole,
            "{what}: resuming did not mend it"
        );
    }
}

#[test]
fn changed_recipes_are_rejected_by_field() {
    let run = trained();
    let path = run.path("training/recipe.toml");
    let recipe = fs::read_to_string(&path).unwrap();
    let back = "set training.seed back to 0 in run/training/recipe.toml";
    for (from, to, message) in [
        ("[training]", "[training", ["TOML parse error", "fix it"]),
        (
            "\nseed = 0",
            "\nsed = 0",
            [
                "unknown field training.sed; did you mean training.seed?",
                "fix it",
            ],
        ),
        ("\nseed = 0", "\nseed = 'x'", ["training.seed", "fix it"]),
        (
            "\nseed = 0",
            "\nseed = 1",
            ["training.seed is 1, but", back],
        ),
        (
            "latent_dim = 4",
            "latent_dim = 5",
            ["model.latent_dim is 5, but", "back to 4"],
        ),
        (
            "ema_decay = 0.9",
            "",
            ["training.ema_decay is unset, but", "back to 0.9"],
        ),
        (
            "limit_train = 100",
            "limit_train = 90",
            ["data.limit_train is 90, but", "back to 100"],
        ),
        (
            "folder:photos",
            "shapes",
            [
                "the run was trained on data with sha256",
                "--dataset or --data-dir",
            ],
        ),
    ] {
        let changed = recipe.replacen(from, to, 1);
        assert_ne!(changed, recipe, "{from}: nothing was changed");
        fs::write(&path, changed).unwrap();
        let stderr = refused(&run, "train --resume run", to);
        assert_mentions(&stderr, &["run/training/recipe.toml"], to);
        assert_mentions(&stderr, &message, to);
    }
    // A field that may change between sessions of a run.
    let changed = recipe.replacen("[training]", "[training]\ncheckpoint_every = '5m'", 1);
    fs::write(&path, changed).unwrap();
    finished(run.resume(""));
}

/// Weights written by other programs have no checksum; a `config.json` of format 1 permits this.
#[test]
fn weights_without_a_checksum_are_read_if_the_config_allows_it() {
    let run = trained();
    let mut weights = Parts::of(&run.weights());
    weights.metadata.clear();
    fs::write(run.path("model.safetensors"), weights.unsealed()).unwrap();
    let config = fs::read_to_string(run.path("config.json")).unwrap();
    let first = config.replace("\"format\": 3", "\"format\": 1");
    fs::write(run.path("config.json"), first).unwrap();
    let output = run.sandbox.succeed("evaluate --checkpoint run --json");
    assert_eq!(output.out, run.results());
}

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
    let left: Vec<PathBuf> = files(&run.path("")).into_keys().collect();
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

/// Commands that read the weights of `run`, each of which must reject invalid ones.
const WITH_WEIGHTS: [&str; 6] = [
    "predict --checkpoint run photos/class-0/0.png",
    "evaluate --checkpoint run",
    "attention --checkpoint run --output map.png photos/class-0/0.png",
    "verify run",
    "push --checkpoint run --repo me/x --dry-run",
    "train --dataset folder:photos --config tiny.toml --init-from run --output other",
];

#[test]
fn non_finite_weights_are_rejected_by_every_command() {
    let run = trained();
    let path = run.path("model.safetensors");
    let mut parts = Parts::of(&fs::read(&path).unwrap());
    set_value(&mut parts, "head.0.bias", 2, f32::NAN);
    fs::write(&path, parts.sealed()).unwrap();
    for command in WITH_WEIGHTS {
        let stderr = refused(&run, command, command);
        let expected = "model.safetensors: weights: head.0.bias: expected finite numbers, found NaN at position 2 of 4";
        assert_mentions(&stderr, &[expected], command);
    }
    assert!(!run.sandbox.path("other").exists() && !run.sandbox.path("map.png").exists());
}

/// Finite weights whose products overflow.
#[test]
fn non_finite_scores_are_never_printed() {
    let run = trained();
    let path = run.path("model.safetensors");
    let whole = fs::read(&path).unwrap();
    let with = |tensor: &str| {
        let mut parts = Parts::of(&whole);
        for at in 0..parts.tensor(tensor).2.len() / 4 {
            set_value(&mut parts, tensor, at, 3e38);
        }
        fs::write(&path, parts.sealed()).unwrap();
    };
    with("head.0.weight");
    for format in ["text", "table", "json", "csv"] {
        let command = format!("predict --checkpoint run --format {format} photos/class-0/0.png");
        let output = run.sandbox.run(&command);
        assert_eq!(
            output.code,
            Some(1),
            "{command}: {} {}",
            output.out,
            output.err
        );
        assert!(!output.out.contains("0.png"), "{command}: {}", output.out);
        let parts = [
            "photos/class-0/0.png: image 0: expected finite logits",
            "weights are too large",
        ];
        assert_mentions(&output.err, &parts, &command);
    }
    for command in [
        "evaluate --checkpoint run",
        "evaluate --checkpoint run --json",
    ] {
        let stderr = refused(&run, command, command);
        assert_mentions(&stderr, &["image 0: expected finite logits"], command);
    }
    with("cross_attention.scale");
    let command = "attention --checkpoint run --output map.png photos/class-0/0.png";
    let stderr = refused(&run, command, command);
    assert_mentions(&stderr, &["image 0: expected finite logits"], command);
}

/// Sizes that would exhaust memory or never finish.
#[test]
fn oversized_architectures_are_rejected_before_allocation() {
    let run = trained();
    let path = run.path("config.json");
    let text = fs::read_to_string(&path).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    for (field, value, message) in [
        (
            "num_iterations",
            json!(1_u64 << 63),
            "num_iterations: expected at most 1024",
        ),
        (
            "num_iterations",
            json!(1_000_000_000),
            "num_iterations: expected at most 1024",
        ),
        (
            "fourier_bands",
            json!(1_000_000_000_000_u64),
            "fourier_bands: expected at most",
        ),
        (
            "num_transformer_blocks",
            json!(1_u64 << 40),
            "num_transformer_blocks: expected at most",
        ),
        (
            "latent_dim",
            json!(1_u64 << 33),
            "latent_dim: expected at most",
        ),
        ("head_dim", json!(u64::MAX), "head_dim: expected at most"),
        (
            "num_heads",
            json!(u64::MAX / 2),
            "num_heads: expected at most",
        ),
        (
            "classifier_units",
            json!([1_u64 << 60]),
            "classifier_units: expected layers at most",
        ),
        (
            "stem_units",
            json!([1_u64 << 60]),
            "stem_units: expected layers at most",
        ),
        ("latent_dim", json!(65_536), "an array of at most"),
    ] {
        let mut changed = config.clone();
        changed["model"][field] = value;
        fs::write(&path, changed.to_string()).unwrap();
        for command in [WITH_WEIGHTS[0], WITH_WEIGHTS[1], "summary --checkpoint run"] {
            let stderr = refused(&run, command, field);
            assert_mentions(&stderr, &["model configuration: ", message], field);
        }
        let set = match &changed["model"][field] {
            Value::Number(number) if number.as_i64().is_none() => continue, // not in TOML
            other => other.to_string(),
        };
        let output = run.sandbox.run(&format!(
            "train --dataset folder:photos --config tiny.toml --set model.{field}={set}"
        ));
        assert_ne!(output.code, Some(0), "{field}");
        assert_mentions(&output.err, &["model configuration: ", message], field);
        assert!(!run.sandbox.path("runs").exists(), "{field}");
    }
    // Within the bounds, but more blocks than the weights file has.
    let mut changed = config.clone();
    changed["model"]["num_transformer_blocks"] = json!(1000);
    fs::write(&path, changed.to_string()).unwrap();
    let stderr = refused(&run, WITH_WEIGHTS[0], "more blocks");
    assert_mentions(&stderr, &["transformer.1.", "is missing"], "more blocks");
}

#[test]
fn recipes_that_exceed_the_memory_are_rejected_with_the_figure() {
    let run = trained();
    let wide = "--set model.projection_dim=16384 --set model.ffn_units=[16384,16384] --set model.num_heads=64 \
                --set model.head_dim=256 --set model.num_transformer_blocks=100";
    let output = run.sandbox.run(&format!(
        "train --dataset folder:photos --config tiny.toml --output wide {wide}"
    ));
    assert_eq!(output.code, Some(1), "{}", output.err);
    assert_mentions(
        &output.err,
        &[
            "training needs ",
            " GB of memory (at least), but ",
            " GB is available to this process",
        ],
        "wide",
    );
    assert!(!run.sandbox.path("wide").exists());
}

#[test]
fn foreign_models_are_identified_by_name() {
    let run = trained();
    let (config, weights) = (run.path("config.json"), run.path("model.safetensors"));
    let ours = fs::read_to_string(&config).unwrap();
    for (content, message) in [
        (
            r#"{"model_type": "vit", "architectures": ["ViTForImageClassification"], "hidden_size": 768}"#,
            "a transformers model (model_type \"vit\", architectures ViTForImageClassification)",
        ),
        (
            r#"{"architecture": "vit_base_patch16_224", "num_classes": 1000}"#,
            "a timm model (architecture \"vit_base_patch16_224\")",
        ),
        ("{}", "an empty JSON object"),
    ] {
        fs::write(&config, content).unwrap();
        let stderr = refused(&run, WITH_WEIGHTS[0], message);
        let loads = "this program loads model_type \"perceiver-image-classification\" with one model.safetensors";
        assert_mentions(&stderr, &[message, loads], message);
        assert!(!stderr.contains("missing field"), "{stderr}");
    }
    fs::write(&config, ours).unwrap();
    fs::rename(&weights, run.path("model-00001-of-00002.safetensors")).unwrap();
    fs::write(
        run.path("model.safetensors.index.json"),
        r#"{"weight_map": {}}"#,
    )
    .unwrap();
    let stderr = refused(&run, WITH_WEIGHTS[0], "in shards");
    let message = [
        "model.safetensors.index.json",
        "sharded weights",
        "merge them into one file",
    ];
    assert_mentions(&stderr, &message, "in shards");
}
