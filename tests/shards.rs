//! Training from shards: the same results as from memory, in bounded memory, and reproducible
//! across interruptions.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use perceiver_data::{ProgressCallback, ShardWriter, Split};
use perceiver_tests::program::{Sandbox, names_in, tiny};
use perceiver_tests::run::{Run, finished, several_epochs};
use perceiver_train::{
    Communicator, Preset, Recipe, SingleProcess, Surveys, TrainingData, ranks_of_threads,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_perceiver-under-test");

/// Returns a run with images in `photos`, and shards of them in `shards`.
fn sharded(recipe: &str) -> Run {
    let run = Run::new(PROGRAM, "");
    run.sandbox.write("tiny.toml", recipe);
    let shard = "shard --dataset folder:photos --output shards --shard-size 17";
    run.sandbox.succeed(shard);
    run
}

fn start(run: &Run) -> Command {
    let start = "train --preset quickstart --dataset shards:shards --config tiny.toml --output run";
    run.sandbox.command(start)
}

#[test]
fn a_folder_and_its_shards_give_equal_results() {
    let run = sharded(&tiny());
    let mut names = vec!["classes.txt".to_string()];
    names.extend(["test-00000.tar", "test-00001.tar"].map(String::from));
    names.extend((0..8).map(|shard| format!("train-0000{shard}.tar"))); // 128 images
    assert_eq!(names_in(&run.sandbox.path("shards")), names);
    let output = finished(start(&run));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("54 train, 6 validation, 20 test"),
        "{stderr}"
    );
    assert!(
        stderr.contains("streaming images from 8 shards"),
        "{stderr}"
    );
    let report = fs::read_to_string(run.path("report.html")).unwrap();
    assert!(report.contains("data:image/png;base64,"));

    let evaluated = |dataset: &str| -> serde_json::Value {
        let evaluate = format!("evaluate --checkpoint run --dataset {dataset} --json");
        serde_json::from_str(&run.sandbox.succeed(&evaluate).out).unwrap()
    };
    let (folder, shards) = (evaluated("folder:photos"), evaluated("shards:shards"));
    assert_eq!(shards["images"], 32);
    for number in ["images", "loss", "acc", "top5_acc"] {
        assert_eq!(folder[number], shards[number], "{number}");
    }
    let results: serde_json::Value = serde_json::from_str(&run.results()).unwrap();
    assert_eq!(results["images"], 20, "limit_test");
}

/// Includes mixing, whose partners come from the shuffle buffer.
#[test]
fn runs_killed_within_an_epoch_equal_an_undisturbed_run() {
    let recipe = several_epochs().replace("[training]", "shuffle_buffer = 30\n[training]")
        + "checkpoint_every = 2\n[data.augmentation.mixing]\nmixup = 0.4\n";
    let [run, expected] = [(); 2].map(|()| sharded(&recipe));
    finished(start(&expected));
    let mut program = start(&run);
    for saves in 1..5 {
        let before = run.steps_saved().unwrap_or(0);
        let mut child = program.spawn().unwrap();
        while run.steps_saved().unwrap_or(0) < before + 2 * saves {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            thread::sleep(Duration::from_micros(200));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        program = run.resume("");
    }
    finished(program);
    run.assert_same_end(&expected);
}

#[test]
fn ranks_train_on_the_same_samples() {
    let sandbox = Sandbox::new(PROGRAM);
    for (split, count) in [(Split::Train, 50), (Split::Test, 5)] {
        write(&sandbox.path("shards"), split, count, 8);
    }
    fs::write(sandbox.path("shards/classes.txt"), "a\nb\n").unwrap();
    let table = format!(
        "data.dataset = 'shards:{}'",
        sandbox.path("shards").display()
    );
    let layers = [("quickstart", Preset::Quickstart.toml()), ("test", &table)];
    let recipe = Recipe::from_layers(&layers).unwrap();
    let load = |recipe: &Recipe, ranks: Arc<dyn Communicator>| {
        let data = TrainingData::load_shared(
            recipe,
            &*ranks,
            &ProgressCallback::default(),
            Surveys::default(),
        );
        let data = data.unwrap();
        let counts = (data.train.len(), data.validation.len());
        (counts, data.sha256, data.preprocessing)
    };
    let expected = load(&recipe, Arc::new(SingleProcess));
    assert_eq!(expected.0, (45, 5));
    let threads = ranks_of_threads(3).into_iter().map(|ranks| {
        let recipe = recipe.clone();
        thread::spawn(move || load(&recipe, Arc::new(ranks)))
    });
    for rank in threads.collect::<Vec<_>>() {
        assert_eq!(rank.join().unwrap(), expected);
    }
}

/// Writes BMP images of `side` x `side` pixels, of two classes.
fn write(folder: &Path, split: Split, count: u32, side: u32) {
    fs::create_dir_all(folder).unwrap();
    let mut writer = ShardWriter::new(folder, split, 100);
    for number in 0..count {
        let shade = |x: u32, y: u32| image::Rgb([(x * number) as u8, (y + number) as u8, 7]);
        let image = image::RgbImage::from_fn(side, side, shade);
        let mut bmp = std::io::Cursor::new(Vec::new());
        image.write_to(&mut bmp, image::ImageFormat::Bmp).unwrap();
        writer.add(bmp.get_ref(), "bmp", number % 2).unwrap();
    }
    assert_eq!(writer.finish().unwrap(), count as usize);
}

/// Returns the peak memory of a program until it ends, as reported by Linux.
#[cfg(target_os = "linux")]
fn peak_megabytes(mut child: Child) -> f64 {
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0.0_f64;
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        peak = kilobytes.map_or(peak, |kilobytes| kilobytes.parse::<f64>().unwrap() / 1e3);
        thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    peak
}

#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_with_the_data() {
    let peaks = [32, 640].map(|num_images| {
        let sandbox = Sandbox::new(PROGRAM);
        for (split, count) in [(Split::Train, num_images), (Split::Test, 8)] {
            write(&sandbox.path("shards"), split, count, 256);
        }
        let recipe = tiny().replace("limit_train = 60", "shuffle_buffer = 16");
        sandbox.write("tiny.toml", recipe);
        let train =
            "train --preset quickstart --dataset shards:shards --config tiny.toml --output run";
        peak_megabytes(sandbox.command(train).spawn().unwrap())
    });
    let [small, large] = peaks;
    assert!(small > 0.0);
    // 20 times the images take 120 MB more.
    assert!(large < small + 20.0, "{small} and {large} MB");
}

#[test]
fn shard_never_overwrites_files() {
    let sandbox = Sandbox::new(PROGRAM);
    sandbox.write("there/file", "mine");
    let output = sandbox.run("shard --dataset shapes --output there");
    assert_eq!(output.code, Some(1));
    let expected = "--output: expected a new directory, found the existing there";
    assert!(output.err.contains(expected), "{}", output.err);
    sandbox.write("photos/cat/1.png", "no picture, and only one of its class");
    let output = sandbox.run("shard --dataset folder:photos --output new");
    assert_eq!(output.code, Some(1));
    assert_eq!(
        names_in(&sandbox.path("")),
        ["photos", "there", "tiny.toml"]
    );
}

#[test]
fn damaged_shards_are_named_before_training() {
    let run = sharded(&tiny());
    let shard = run.sandbox.path("shards/train-00003.tar");
    let bytes = fs::read(&shard).unwrap();
    fs::write(&shard, &bytes[..bytes.len() / 2]).unwrap();
    let output = start(&run).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    let expected = "shards/train-00003.tar: expected a complete tar file, found ";
    assert!(stderr.contains(expected), "{stderr}");
    assert!(!run.sandbox.path("run").exists());
}
