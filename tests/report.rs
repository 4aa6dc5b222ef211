//! Reports, comparisons and attention maps, as the program writes them.

use std::fs;
use std::path::Path;

use perceiver_data::{Image, LoadOptions, Source, Split};
use perceiver_report::{McNemar, Run, Shows, report};
use perceiver_tests::program::{ProgramOutput, Sandbox};
use perceiver_train::{
    ConfusionMatrix, Prediction, Preset, Recipe, RunDirectory, read_predictions,
};
use serde_json::Value;

fn new_sandbox() -> Sandbox {
    Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"))
}

/// Returns a sandbox with two models trained on shapes, `one` and `other`, of different seeds.
fn trained() -> Sandbox {
    let sandbox = new_sandbox();
    for (run, seed) in [("one", 0), ("other", 1)] {
        sandbox.succeed(&format!(
            "train --preset quickstart --config tiny.toml --seed {seed} --output {run}"
        ));
    }
    sandbox
}

fn text(sandbox: &Sandbox, file: &str) -> String {
    fs::read_to_string(sandbox.path(file)).unwrap()
}

fn failure(sandbox: &Sandbox, arguments: &str) -> String {
    let output = sandbox.run(arguments);
    assert_eq!(output.code, Some(1), "{arguments}: {}", output.err);
    output.err
}

/// Returns the references to other files that a page would load.
fn loads(page: &str) -> Vec<&str> {
    let loading = ["src=\"", "href=\"", "url(", "@import", "srcset=\""];
    let mut references = Vec::new();
    for word in loading {
        for (at, _) in page.match_indices(word) {
            let address = &page[at + word.len()..];
            let inside = ["data:", "#", "var("]
                .iter()
                .any(|own| address.starts_with(own));
            if !inside {
                references.push(&page[at..page.len().min(at + 80)]);
            }
        }
    }
    references
}

#[test]
fn runs_end_with_a_self_contained_report() {
    let sandbox = trained();
    let page = text(&sandbox, "one/report.html");
    assert_eq!(loads(&page), Vec::<&str>::new());
    assert!(
        !page.contains("https://")
            && page.matches("http://").count()
                == page.matches("http://www.w3.org/2000/svg").count()
    );
    let results: Value = serde_json::from_str(&text(&sandbox, "one/results.json")).unwrap();
    let accuracy = format!("{:.2}%", 100.0 * results["acc"].as_f64().unwrap());
    let balanced = format!("{:.2}%", 100.0 * results["balanced_acc"].as_f64().unwrap());
    let f1 = format!("{:.2}%", 100.0 * results["macro_f1"].as_f64().unwrap());
    for expected in [
        accuracy.as_str(),
        &format!("<dt>Balanced accuracy</dt><dd>{balanced}</dd>"),
        &format!("<dt>Macro F1</dt><dd>{f1}</dd>"),
        "prefers-color-scheme: dark",
        "name=\"viewport\"",
        "Expected calibration error",
        "Most confused",
        "\"name\":\"training\",\"timeline\":0,\"points\":[[1.0,",
        "Macro average",
        "Cross attention 1 of ",
        "<summary>Values</summary>",
        "<code>perceiver-under-test train --preset quickstart --config tiny.toml --seed 0",
        "<dt>Started</dt>",
        "learning_rate",
        "perceiver train --recipe recipe.toml",
    ] {
        assert!(page.contains(expected), "{expected}");
    }
    // Of the 20 test images, at most 12 correct and 12 wrong ones are shown beside those of single
    // classes, and up to three of each have maps.
    let predictions = read_predictions(sandbox.path("one/predictions.csv")).unwrap();
    let right = predictions
        .iter()
        .filter(|prediction| prediction.is_right())
        .count();
    let shown = right.min(12) + (predictions.len() - right).min(12);
    let section = page.split("<section id=\"pictures\">").nth(1).unwrap();
    let section = section.split("</section>").next().unwrap();
    assert_eq!(section.matches("width=\"96\" height=\"96\"").count(), shown);
    let num_maps = right.min(3) + (predictions.len() - right).min(3);
    assert_eq!(
        page.matches("--picture:url(data:image/png").count(),
        num_maps
    );
}

#[test]
fn reports_are_reproducible() {
    let sandbox = trained();
    let first = text(&sandbox, "one/report.html");
    let output = sandbox.succeed("report one --output again.html");
    assert_eq!(output.out, "again.html\n");
    assert!(text(&sandbox, "again.html") == first);
    assert!(text(&sandbox, "other/report.html") != first);
}

#[test]
fn the_command_in_the_report_reproduces_the_run() {
    let sandbox = new_sandbox();
    sandbox.succeed("train --preset cifar100-cpu --dataset shapes --config tiny.toml --output run --set model.norm_pooled=false");
    let page = text(&sandbox, "run/report.html");
    let recipe = page
        .split("<summary>The recipe</summary>\n<pre>")
        .nth(1)
        .unwrap();
    let recipe = recipe.split("</pre>").next().unwrap();
    sandbox.write("recipe.toml", recipe.replace("&#34;", "\""));
    sandbox.succeed("train --recipe recipe.toml --output again");
    assert_eq!(
        text(&sandbox, "again/training/recipe.toml"),
        text(&sandbox, "run/training/recipe.toml")
    );
    assert_eq!(
        text(&sandbox, "again/results.json"),
        text(&sandbox, "run/results.json")
    );
    // A run also serves as a recipe, with changes by flags.
    sandbox.succeed("train --recipe run --output third");
    assert_eq!(
        text(&sandbox, "third/results.json"),
        text(&sandbox, "run/results.json")
    );
    sandbox.succeed("train --recipe run --seed 7 -b 20 -o changed");
    let recipe = text(&sandbox, "changed/training/recipe.toml");
    assert!(recipe.contains("seed = 7") && recipe.contains("batch_size = 20"));
    let both = sandbox.run("train --recipe run --preset quickstart");
    assert_eq!(both.code, Some(2), "{}", both.err);
}

/// Class names are folder names, which may contain any text.
#[test]
#[cfg(unix)]
fn class_names_are_escaped() {
    let sandbox = new_sandbox();
    let names = ["<img src=x onerror=alert(1)>", "a&b\"'c", "{{ 7 }}{% x %}"];
    for name in names {
        for index in 0..12_u8 {
            let image = Image::new(
                8,
                8,
                (0..192).map(|at: u8| at.wrapping_mul(index)).collect(),
            );
            let folder = sandbox.path(format!("photos/{name}"));
            fs::create_dir_all(&folder).unwrap();
            image
                .unwrap()
                .write_png(folder.join(format!("{index}.png")))
                .unwrap();
        }
    }
    sandbox.write(
        "few.toml",
        perceiver_tests::program::tiny().replace("20", "9"),
    );
    sandbox.succeed("train --preset quickstart --dataset folder:photos --config few.toml --output run --set model.classifier_units=[3]");
    let page = text(&sandbox, "run/report.html");
    assert!(!page.contains("<img src=x"), "{page}");
    assert!(page.contains("&#60;img src=x onerror=alert(1)&#62;") && page.contains("{{ 7 }}"));
}

#[test]
fn unwritable_reports_do_not_fail_the_run() {
    let sandbox = new_sandbox();
    sandbox.succeed("train --preset quickstart --config tiny.toml --output run");
    let (report, environment) = ("run/report.html", "run/training/environment.json");
    let (before, recorded) = (text(&sandbox, report), text(&sandbox, environment));
    fs::remove_file(sandbox.path(report)).unwrap();
    sandbox.write(environment, "[");
    let output = sandbox.succeed("train --resume run");
    assert!(
        output.err.contains("no report:")
            && output.err.contains("write it with: perceiver report run"),
        "{}",
        output.err
    );
    assert!(
        output.out.contains("test results on shapes, 20 images"),
        "{}",
        output.out
    );
    sandbox.write(environment, recorded);
    sandbox.succeed("train --resume run");
    assert!(text(&sandbox, report) == before);

    fs::remove_file(sandbox.path(report)).unwrap();
    fs::create_dir(sandbox.path(report)).unwrap();
    let refused = failure(&sandbox, "report run");
    assert!(
        refused.contains("cannot write") && refused.contains("report.html"),
        "{refused}"
    );
}

/// Metrics after an overflow, or from a manipulated file.
#[test]
fn extreme_metrics_do_not_hang_the_report() {
    let sandbox = trained();
    let path = sandbox.path("one/metrics.jsonl");
    let line = fs::read_to_string(&path).unwrap();
    let mut epochs: Vec<Value> = (1..=3)
        .map(|number: u64| {
            let mut epoch: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
            epoch["epoch"] = number.into();
            epoch
        })
        .collect();
    for (field, value) in [
        ("loss", 1e308),
        ("val_loss", -1e308),
        ("val_acc", 1e308),
        ("acc", -1e308),
        ("seconds", 1e308),
    ] {
        epochs[0][field] = value.into();
        epochs[1][field] = (-value).into();
    }
    epochs[2]["epoch"] = u64::MAX.into();
    let lines: Vec<String> = epochs.iter().map(ToString::to_string).collect();
    fs::write(&path, lines.join("\n") + "\n").unwrap();
    for command in [
        "report one",
        "compare one other",
        "runs .",
        "push --checkpoint one --repo me/one --dry-run --no-verify",
    ] {
        let output = sandbox.run(command);
        assert!(
            output.code.is_some_and(|code| code < 2),
            "{command}: {output:?}"
        );
        assert!(
            !output.err.contains("panicked"),
            "{command}: {}",
            output.err
        );
    }
}

#[test]
fn images_of_a_folder_are_named_in_predictions_and_report() {
    let run = perceiver_tests::run::Run::new(env!("CARGO_BIN_EXE_perceiver-under-test"), "");
    perceiver_tests::run::finished(run.start());
    let predictions = text(&run.sandbox, "run/predictions.csv");
    let mut lines = predictions.lines();
    let header = lines.next().unwrap();
    assert!(header.ends_with(",label_rank,path"), "{header}");
    let page = text(&run.sandbox, "run/report.html");
    let mut shown = 0;
    for line in lines {
        let path = line.rsplit(',').next().unwrap();
        let label = line.split(',').nth(1).unwrap();
        assert!(path.starts_with(&format!("class-{label}/")), "{line}");
        assert!(run.sandbox.path("photos").join(path).is_file(), "{line}");
        shown += usize::from(page.contains(&format!("<span class=\"name\">{path}</span>")));
    }
    assert!(shown > 0, "no image is named in the report");
    // Files of earlier versions have no names.
    let cut = |line: &str| line.rsplit_once(',').unwrap().0.to_string() + "\n";
    let unnamed: String = predictions.lines().map(cut).collect();
    run.sandbox.write("run/predictions.csv", unnamed);
    run.sandbox.succeed("report run");
    assert!(text(&run.sandbox, "run/report.html") == page);
}

#[test]
fn images_without_names_are_identified_by_index() {
    let sandbox = new_sandbox();
    sandbox.succeed("train --preset quickstart --config tiny.toml --output run");
    let predictions = text(&sandbox, "run/predictions.csv");
    assert!(predictions.lines().next().unwrap().ends_with(",label_rank"));
    let page = text(&sandbox, "run/report.html");
    assert!(page.contains("<span class=\"name\">test image "));
}

#[test]
fn reports_use_moved_data_and_are_never_replaced_by_poorer_ones() {
    let run = perceiver_tests::run::Run::new(env!("CARGO_BIN_EXE_perceiver-under-test"), "");
    perceiver_tests::run::finished(run.start());
    let good = text(&run.sandbox, "run/report.html");
    fs::rename(run.sandbox.path("photos"), run.sandbox.path("moved")).unwrap();
    let refused = failure(&run.sandbox, "report run");
    assert!(
        refused.contains("not overwritten, as it shows the test images")
            && refused.contains("give its location by --dataset folder:DIR")
            && refused.contains("--output FILE"),
        "{refused}"
    );
    assert!(text(&run.sandbox, "run/report.html") == good);
    run.sandbox.succeed("report run --dataset folder:moved");
    assert!(text(&run.sandbox, "run/report.html") == good);
    // Other images are not accepted instead.
    fs::remove_file(run.sandbox.path("moved/class-0/0.png")).unwrap();
    fs::remove_file(run.sandbox.path("moved/class-0/1.png")).unwrap();
    failure(&run.sandbox, "report run --dataset folder:moved");
    assert!(text(&run.sandbox, "run/report.html") == good);
}

#[test]
fn reports_without_images_say_so_and_show_the_rest() {
    let run = perceiver_tests::run::Run::new(env!("CARGO_BIN_EXE_perceiver-under-test"), "");
    perceiver_tests::run::finished(run.start());
    fs::rename(run.sandbox.path("photos"), run.sandbox.path("moved")).unwrap();
    let output = run.sandbox.succeed("report run --output report.html");
    assert!(
        output.err.contains("The test images are not shown"),
        "{}",
        output.err
    );
    let page = text(&run.sandbox, "report.html");
    assert!(
        page.contains("The test images are not shown")
            && page.contains("Expected calibration error")
    );
    assert!(!page.contains("id=\"pictures\""));
}

#[test]
fn runs_of_earlier_versions_are_reevaluated() {
    let sandbox = trained();
    let (expected, results) = (
        text(&sandbox, "one/predictions.csv"),
        text(&sandbox, "one/results.json"),
    );
    fs::remove_file(sandbox.path("one/predictions.csv")).unwrap();
    fs::remove_file(sandbox.path("one/training/environment.json")).unwrap();
    let mut old: Value = serde_json::from_str(&results).unwrap();
    for field in ["sha256", "balanced_acc", "macro_f1"] {
        old.as_object_mut().unwrap().remove(field).unwrap();
    }
    sandbox.write("one/results.json", old.to_string());
    let refused = failure(&sandbox, "compare one other");
    assert!(
        refused.contains("predictions.csv") && refused.contains("perceiver report RUN"),
        "{refused}"
    );
    sandbox.succeed("report one");
    assert_eq!(text(&sandbox, "one/predictions.csv"), expected);
    assert_eq!(text(&sandbox, "one/results.json"), results);
    sandbox.succeed("compare one other");
}

/// Returns the mean over the classes of the share of their images that are predicted correctly.
fn mean_recall(predictions: &[Prediction]) -> f64 {
    let recalls: Vec<f64> = (0..20)
        .filter_map(|class| {
            let of_class: Vec<_> = predictions.iter().filter(|p| p.label == class).collect();
            let right = of_class.iter().filter(|p| p.predicted == class).count();
            (!of_class.is_empty()).then(|| right as f64 / of_class.len() as f64)
        })
        .collect();
    recalls.iter().sum::<f64>() / recalls.len() as f64
}

#[test]
fn comparisons_show_what_each_run_alone_predicted_correctly() {
    let sandbox = trained();
    let output = sandbox.succeed("compare one other --json --output compare.html");
    let comparison: Value = serde_json::from_str(&output.out).unwrap();
    let [one, other] = ["one", "other"]
        .map(|run| read_predictions(sandbox.path(format!("{run}/predictions.csv"))).unwrap());
    let test = McNemar::of(&one, &other);
    let pair = &comparison["pairs"][0];
    assert_eq!(pair["only_one"], test.only_first);
    assert_eq!(pair["only_other"], test.only_second);
    assert_eq!(pair["p_value"], test.p_value);
    let share = |predictions: &[Prediction]| {
        let right = predictions
            .iter()
            .filter(|prediction| prediction.is_right())
            .count();
        right as f64 / predictions.len() as f64
    };
    let difference = pair["difference"].as_f64().unwrap();
    assert!((difference - (share(&one) - share(&other))).abs() < 1e-12);
    assert_eq!(
        comparison["differences"],
        serde_json::json!([{"field": "training.seed", "values": ["0", "1"]}])
    );
    for (run, predictions) in comparison["runs"]
        .as_array()
        .unwrap()
        .iter()
        .zip([&one, &other])
    {
        let actual = run["results"]["balanced_acc"].as_f64().unwrap();
        assert!((actual - mean_recall(predictions)).abs() < 1e-12);
    }
    // Results of earlier versions lack them.
    let mut old: Value = serde_json::from_str(&text(&sandbox, "one/results.json")).unwrap();
    for field in ["balanced_acc", "macro_f1"] {
        old.as_object_mut().unwrap().remove(field).unwrap();
    }
    sandbox.write("one/results.json", old.to_string());
    let again = sandbox.succeed("compare one other --json").out;
    assert_eq!(serde_json::from_str::<Value>(&again).unwrap(), comparison);
    let page = text(&sandbox, "compare.html");
    assert_eq!(loads(&page), Vec::<&str>::new());
    assert!(page.contains("training.seed") && page.contains("{\"name\":\"one\",\"timeline\":0,"));
    let table = sandbox.succeed("compare one other").out;
    assert!(
        ["McNemar's test", "training.seed", "balanced", "macro F1"]
            .iter()
            .all(|text| table.contains(text)),
        "{table}"
    );
}

#[test]
fn runs_tested_on_different_images_are_not_compared() {
    let sandbox = trained();
    sandbox.succeed("train --preset quickstart --config tiny.toml --limit-test 10 --output fewer");
    let refused = failure(&sandbox, "compare one other fewer");
    assert!(
        refused.contains("expected the same number of test images, found 20 and 10"),
        "{refused}"
    );
    let mut results: Value = serde_json::from_str(&text(&sandbox, "other/results.json")).unwrap();
    results["sha256"] = "0".into();
    sandbox.write("other/results.json", results.to_string());
    let refused = failure(&sandbox, "compare one other");
    assert!(
        refused.contains("expected the same test images (sha256)"),
        "{refused}"
    );
    let output = sandbox.run("compare one");
    assert_eq!(output.code, Some(2), "{}", output.err);
}

fn attention(sandbox: &Sandbox, arguments: &str) -> (ProgramOutput, Image) {
    let output = sandbox.succeed(&format!(
        "attention --checkpoint one picture.png --output out.png {arguments}"
    ));
    let image = Image::open(sandbox.path("out.png")).unwrap();
    (output, image)
}

#[test]
fn attention_shows_the_requested_maps() {
    let sandbox = trained();
    let shapes = Source::Shapes
        .load(Split::Test, &LoadOptions::default())
        .unwrap();
    shapes.images()[0]
        .write_png(sandbox.path("picture.png"))
        .unwrap();

    let layers = [
        ("quickstart", Preset::Quickstart.toml()),
        ("tiny", &text(&sandbox, "tiny.toml")),
    ];
    let num_maps = {
        let recipe = Recipe::from_layers(&layers).unwrap();
        recipe.model.perceiver().unwrap().cross_attends()
    };
    let (output, sheet) = attention(&sandbox, "");
    assert_eq!(output.out.lines().count(), 2 + num_maps, "{}", output.out);
    // The title, a titled row of captioned images per cross-attention, and the colour bar.
    let bar = 40;
    assert_eq!(sheet.height(), 8 + 24 + num_maps * (24 + 192 + 28) + bar);
    let (_, one) = attention(&sandbox, "--mean --iteration 1");
    assert_eq!((one.height(), one.width()), (8 + 24 + 540 + bar, 528));
    let (_, all) = attention(&sandbox, "--latent 2");
    assert_eq!(
        (all.height(), all.width()),
        (one.height(), 8 + num_maps * 520)
    );
    let (_, logits) = attention(&sandbox, "--latent 2 --iteration 1 --logits");
    let (_, probabilities) = attention(&sandbox, "--latent 2 --iteration 1");
    assert!(logits.pixels() != probabilities.pixels());

    for (arguments, expected) in [
        ("--latent 5", "latent: expected 1 to 4, found 5"),
        ("--latent 0", "--latent <N>': expected at least 1"),
        ("--mean --iteration 9", "found 9"),
    ] {
        let command =
            format!("attention --checkpoint one picture.png --output not.png {arguments}");
        let output = sandbox.run(&command);
        assert_eq!(output.code, Some(2), "{}", output.err);
        assert!(output.err.contains(expected), "{}", output.err);
    }
    let missing = failure(
        &sandbox,
        "attention --checkpoint one nowhere.png --output not.png",
    );
    assert!(missing.contains("nowhere.png"), "{missing}");
    assert!(!sandbox.path("not.png").exists());
}

#[test]
fn attention_prints_predictions_and_honors_the_output_name() {
    let sandbox = trained();
    let shapes = Source::Shapes
        .load(Split::Test, &LoadOptions::default())
        .unwrap();
    for (at, file) in ["a.png", "b.png"].into_iter().enumerate() {
        shapes.images()[at].write_png(sandbox.path(file)).unwrap();
    }
    let output = sandbox.succeed("attention --checkpoint one -o both.jpg --mean a.png b.png");
    let file = fs::read(sandbox.path("both.jpg")).unwrap();
    assert_eq!(file[..3], [0xff, 0xd8, 0xff], "a JPEG file");
    let both = Image::open(sandbox.path("both.jpg")).unwrap();
    assert_eq!(both.height(), 8 + 2 * (24 + 540) + 40);
    let predicted = sandbox.succeed("predict --checkpoint one --json a.png b.png");
    for (line, file) in predicted.out.lines().zip(["a.png", "b.png"]) {
        let prediction: Value = serde_json::from_str(line).unwrap();
        let best = &prediction["classes"][0];
        let expected = format!(
            "  {} {:.1}%, {file}\n",
            best["class"].as_str().unwrap(),
            100.0 * best["probability"].as_f64().unwrap()
        );
        assert!(output.out.contains(&expected), "{expected}{}", output.out);
    }
    for output in ["map.gif", "map"] {
        let refused = sandbox.run(&format!("attention --checkpoint one -o {output} a.png"));
        assert_eq!(refused.code, Some(2), "{}", refused.err);
        assert!(refused.err.contains(".webp or .bmp"), "{}", refused.err);
        assert!(!sandbox.path(output).exists());
    }
}

#[test]
fn every_image_is_in_the_confusion_matrix_once() {
    let sandbox = trained();
    let predictions = read_predictions(Path::new(&sandbox.path("one/predictions.csv"))).unwrap();
    let confusion = ConfusionMatrix::new(&predictions);
    assert_eq!(
        confusion.cells().map(|cell| cell.2).sum::<u64>(),
        predictions.len() as u64
    );
}

/// The size of a page is bounded: tables and the list of cells grow with the classes, not with the
/// images.
#[test]
fn reports_of_many_classes_and_images_are_small() {
    let sandbox = trained();
    let directory = RunDirectory::open(sandbox.path("one")).unwrap();
    let mut run = Run::read(&directory).unwrap();
    run.config.classes = (0..1000)
        .map(|class| format!("class number {class}"))
        .collect();
    let prediction = |image: usize| {
        let (label, round) = (image as u32 % 1000, image as u32 / 1000);
        let is_right = round >= 40;
        Prediction {
            image,
            label,
            predicted: if is_right {
                label
            } else {
                (label + 7 * round + 1) % 1000
            },
            probability: 0.5,
            label_probability: if is_right { 0.5 } else { 0.25 },
            label_rank: if is_right { 1 } else { 2 },
        }
    };
    run.predictions = Some((0..100_000).map(prediction).collect());
    let page = report(&run, &Shows::default()).unwrap();
    assert!(page.len() < 1_600_000, "{} bytes", page.len());
    assert!(page.contains("1000 classes with images") && page.contains("class=\"map\""));
}

#[test]
fn warnings_are_marked_on_the_curves() {
    let sandbox = trained();
    let path = sandbox.path("one/metrics.jsonl");
    let mut epoch: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    epoch["warnings"] = serde_json::json!([{
        "step": 2, "kind": "stuck_loss", "finding": "found <here>", "cause": "c", "cure": "d",
    }]);
    fs::write(&path, epoch.to_string() + "\n").unwrap();
    sandbox.succeed("report one");
    let page = text(&sandbox, "one/report.html");
    assert!(
        page.contains("<g class=\"mark\"><title>epoch 1, step 2: found &#60;here&#62;</title>")
    );
    assert!(page.contains("<h3 id=\"warnings\">Warnings</h3>") && !page.contains("<here>"));
}
