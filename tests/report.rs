//! Reports, comparisons and pictures of attention, as the program makes them.

use std::fs;
use std::path::Path;

use perceiver_data::{Image, LoadOptions, Source, Split};
use perceiver_report::{Confusion, McNemar};
use perceiver_tests::program::{Said, Sandbox};
use perceiver_train::{Preset, Recipe, read_predictions};
use serde_json::Value;

fn workplace() -> Sandbox {
    Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"))
}

/// A workplace with two models trained on shapes, `one` and `other`, which differ in their seeds.
fn trained() -> Sandbox {
    let place = workplace();
    for (run, seed) in [("one", 0), ("other", 1)] {
        place.succeed(&format!(
            "train --preset quickstart --config tiny.toml --seed {seed} --output {run}"
        ));
    }
    place
}

fn text(place: &Sandbox, file: &str) -> String {
    fs::read_to_string(place.path(file)).unwrap()
}

fn failure(place: &Sandbox, arguments: &str) -> String {
    let said = place.run(arguments);
    assert_eq!(said.code, Some(1), "{arguments}: {}", said.err);
    said.err
}

/// Whatever a page would load by itself.
fn loads(page: &str) -> Vec<&str> {
    let loading = ["src=\"", "href=\"", "url(", "@import", "srcset=\""];
    let mut found = Vec::new();
    for word in loading {
        for (at, _) in page.match_indices(word) {
            let address = &page[at + word.len()..];
            let inside = ["data:", "#", "var("]
                .iter()
                .any(|own| address.starts_with(own));
            if !inside {
                found.push(&page[at..page.len().min(at + 80)]);
            }
        }
    }
    found
}

#[test]
fn a_run_ends_with_a_report_that_needs_nothing_else() {
    let place = trained();
    let page = text(&place, "one/report.html");
    assert_eq!(loads(&page), Vec::<&str>::new());
    assert!(
        !page.contains("https://")
            && page.matches("http://").count()
                == page.matches("http://www.w3.org/2000/svg").count()
    );
    let results: Value = serde_json::from_str(&text(&place, "one/results.json")).unwrap();
    let accuracy = format!("{:.2}%", 100.0 * results["acc"].as_f64().unwrap());
    for expected in [
        accuracy.as_str(),
        "prefers-color-scheme: dark",
        "name=\"viewport\"",
        "Expected calibration error",
        "Most confused",
        "data-says=\"epoch 1 · training",
        "learning_rate",
        "perceiver train --recipe recipe.toml",
    ] {
        assert!(page.contains(expected), "{expected}");
    }
    // 20 test pictures: every one is right or wrong, and 12 of a kind at most are shown; six have maps.
    let said = read_predictions(&place.path("one/predictions.csv")).unwrap();
    let right = said.iter().filter(|said| said.is_right()).count();
    let shown = right.min(12) + (said.len() - right).min(12);
    assert_eq!(page.matches("width=\"96\" height=\"96\"").count(), shown);
    let looks = right.min(3) + (said.len() - right).min(3);
    assert_eq!(page.matches("--picture:url(data:image/png").count(), looks);
}

#[test]
fn the_same_run_gives_the_same_report() {
    let place = trained();
    let first = text(&place, "one/report.html");
    let said = place.succeed("report one --output again.html");
    assert_eq!(said.out, "again.html\n");
    assert!(text(&place, "again.html") == first);
    assert!(text(&place, "other/report.html") != first);
}

#[test]
fn the_command_in_the_report_repeats_the_run() {
    let place = workplace();
    place.succeed("train --preset cifar100-cpu --dataset shapes --config tiny.toml --output run --set model.norm_pooled=false");
    let page = text(&place, "run/report.html");
    let recipe = page
        .split("<summary>The recipe</summary>\n<pre>")
        .nth(1)
        .unwrap();
    let recipe = recipe.split("</pre>").next().unwrap();
    place.write("recipe.toml", recipe.replace("&#34;", "\""));
    place.succeed("train --recipe recipe.toml --output again");
    assert_eq!(
        text(&place, "again/training/recipe.toml"),
        text(&place, "run/training/recipe.toml")
    );
    assert_eq!(
        text(&place, "again/results.json"),
        text(&place, "run/results.json")
    );
    // The same by the run itself, and with a change over it.
    place.succeed("train --recipe run --output third");
    assert_eq!(
        text(&place, "third/results.json"),
        text(&place, "run/results.json")
    );
    place.succeed("train --recipe run --seed 7 -b 20 -o changed");
    let recipe = text(&place, "changed/training/recipe.toml");
    assert!(recipe.contains("seed = 7") && recipe.contains("batch_size = 20"));
    let both = place.run("train --recipe run --preset quickstart");
    assert_eq!(both.code, Some(2), "{}", both.err);
}

/// What a class is called comes from whoever made the folders.
#[test]
#[cfg(unix)]
fn names_of_classes_do_nothing() {
    let place = workplace();
    let names = ["<img src=x onerror=alert(1)>", "a&b\"'c", "{{ 7 }}{% x %}"];
    for name in names {
        for index in 0..12_u8 {
            let picture = Image::new(
                8,
                8,
                (0..192).map(|at: u8| at.wrapping_mul(index)).collect(),
            );
            let folder = place.path(format!("photos/{name}"));
            fs::create_dir_all(&folder).unwrap();
            picture
                .unwrap()
                .write_png(&folder.join(format!("{index}.png")))
                .unwrap();
        }
    }
    place.write(
        "few.toml",
        perceiver_tests::program::tiny().replace("20", "9"),
    );
    place.succeed("train --preset quickstart --dataset folder:photos --config few.toml --output run --set model.classifier_units=[3]");
    let page = text(&place, "run/report.html");
    assert!(!page.contains("<img src=x"), "{page}");
    assert!(page.contains("&#60;img src=x onerror=alert(1)&#62;") && page.contains("{{ 7 }}"));
}

#[test]
fn a_report_that_cannot_be_written_spoils_no_run() {
    let place = workplace();
    place.succeed("train --preset quickstart --config tiny.toml --output run");
    let (report, environment) = ("run/report.html", "run/training/environment.json");
    let (before, recorded) = (text(&place, report), text(&place, environment));
    fs::remove_file(place.path(report)).unwrap();
    place.write(environment, "[");
    let said = place.succeed("train --resume run");
    assert!(
        said.err.contains("no report:") && said.err.contains("write it with: perceiver report run"),
        "{}",
        said.err
    );
    assert!(
        said.out.contains("test results on shapes, 20 images"),
        "{}",
        said.out
    );
    place.write(environment, recorded);
    place.succeed("train --resume run");
    assert!(text(&place, report) == before);

    fs::remove_file(place.path(report)).unwrap();
    fs::create_dir(place.path(report)).unwrap();
    let refused = failure(&place, "report run");
    assert!(
        refused.contains("cannot write") && refused.contains("report.html"),
        "{refused}"
    );
}

/// A loss that overflowed, or a file that somebody made.
#[test]
fn metrics_that_no_axis_can_have_hang_no_report() {
    let place = trained();
    let path = place.path("one/metrics.jsonl");
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
        let said = place.run(command);
        assert!(
            said.code.is_some_and(|code| code < 2),
            "{command}: {said:?}"
        );
        assert!(!said.err.contains("panicked"), "{command}: {}", said.err);
    }
}

#[test]
fn images_of_a_folder_are_named_in_predictions_and_report() {
    let run = perceiver_tests::run::Run::new(env!("CARGO_BIN_EXE_perceiver-under-test"), "");
    perceiver_tests::run::finished(run.start());
    let predictions = text(&run.place, "run/predictions.csv");
    let mut lines = predictions.lines();
    let header = lines.next().unwrap();
    assert!(header.ends_with(",label_rank,path"), "{header}");
    let page = text(&run.place, "run/report.html");
    let mut shown = 0;
    for line in lines {
        let path = line.rsplit(',').next().unwrap();
        let label = line.split(',').nth(1).unwrap();
        assert!(path.starts_with(&format!("class-{label}/")), "{line}");
        assert!(run.place.path("photos").join(path).is_file(), "{line}");
        shown += usize::from(page.contains(&format!("<span class=\"name\">{path}</span>")));
    }
    assert!(shown > 0, "no image is named in the report");
    // A file of an earlier version has no names.
    let cut = |line: &str| line.rsplit_once(',').unwrap().0.to_string() + "\n";
    let unnamed: String = predictions.lines().map(cut).collect();
    run.place.write("run/predictions.csv", unnamed);
    run.place.succeed("report run");
    assert!(text(&run.place, "run/report.html") == page);
}

#[test]
fn images_without_names_are_told_by_their_place() {
    let place = workplace();
    place.succeed("train --preset quickstart --config tiny.toml --output run");
    let predictions = text(&place, "run/predictions.csv");
    assert!(predictions.lines().next().unwrap().ends_with(",label_rank"));
    let page = text(&place, "run/report.html");
    assert!(page.contains("<span class=\"name\">test image "));
}

#[test]
fn a_report_is_made_of_data_that_were_moved_and_never_replaced_by_a_poorer_one() {
    let run = perceiver_tests::run::Run::new(env!("CARGO_BIN_EXE_perceiver-under-test"), "");
    perceiver_tests::run::finished(run.start());
    let good = text(&run.place, "run/report.html");
    fs::rename(run.place.path("photos"), run.place.path("moved")).unwrap();
    let refused = failure(&run.place, "report run");
    assert!(
        refused.contains("not overwritten, as it shows the test images")
            && refused.contains("give its location by --dataset folder:DIR")
            && refused.contains("--output FILE"),
        "{refused}"
    );
    assert!(text(&run.place, "run/report.html") == good);
    run.place.succeed("report run --dataset folder:moved");
    assert!(text(&run.place, "run/report.html") == good);
    // Other images are no substitute.
    fs::remove_file(run.place.path("moved/class-0/0.png")).unwrap();
    fs::remove_file(run.place.path("moved/class-0/1.png")).unwrap();
    failure(&run.place, "report run --dataset folder:moved");
    assert!(text(&run.place, "run/report.html") == good);
}

#[test]
fn without_its_pictures_a_report_says_so_and_shows_the_rest() {
    let run = perceiver_tests::run::Run::new(env!("CARGO_BIN_EXE_perceiver-under-test"), "");
    perceiver_tests::run::finished(run.start());
    fs::rename(run.place.path("photos"), run.place.path("moved")).unwrap();
    let said = run.place.succeed("report run --output report.html");
    assert!(
        said.err.contains("The test images are not shown"),
        "{}",
        said.err
    );
    let page = text(&run.place, "report.html");
    assert!(
        page.contains("The test images are not shown")
            && page.contains("Expected calibration error")
    );
    assert!(!page.contains("id=\"pictures\""));
}

#[test]
fn runs_of_earlier_versions_are_judged_again() {
    let place = trained();
    let (expected, results) = (
        text(&place, "one/predictions.csv"),
        text(&place, "one/results.json"),
    );
    fs::remove_file(place.path("one/predictions.csv")).unwrap();
    fs::remove_file(place.path("one/training/environment.json")).unwrap();
    let mut old: Value = serde_json::from_str(&results).unwrap();
    old.as_object_mut().unwrap().remove("sha256");
    place.write("one/results.json", old.to_string());
    let refused = failure(&place, "compare one other");
    assert!(
        refused.contains("predictions.csv") && refused.contains("perceiver report RUN"),
        "{refused}"
    );
    place.succeed("report one");
    assert_eq!(text(&place, "one/predictions.csv"), expected);
    assert_eq!(text(&place, "one/results.json"), results);
    place.succeed("compare one other");
}

#[test]
fn compared_runs_show_what_each_alone_got_right() {
    let place = trained();
    let said = place.succeed("compare one other --json --output compare.html");
    let comparison: Value = serde_json::from_str(&said.out).unwrap();
    let [one, other] = ["one", "other"]
        .map(|run| read_predictions(&place.path(format!("{run}/predictions.csv"))).unwrap());
    let test = McNemar::of(&one, &other);
    let pair = &comparison["pairs"][0];
    assert_eq!(pair["only_one"], test.only_first);
    assert_eq!(pair["only_other"], test.only_second);
    assert_eq!(pair["p_value"], test.p_value);
    let share = |said: &[perceiver_train::Prediction]| {
        let right = said.iter().filter(|said| said.is_right()).count();
        right as f64 / said.len() as f64
    };
    let difference = pair["difference"].as_f64().unwrap();
    assert!((difference - (share(&one) - share(&other))).abs() < 1e-12);
    assert_eq!(
        comparison["differences"],
        serde_json::json!([{"field": "training.seed", "values": ["0", "1"]}])
    );
    let page = text(&place, "compare.html");
    assert_eq!(loads(&page), Vec::<&str>::new());
    assert!(page.contains("training.seed") && page.contains("epoch 1 · one "));
    let table = place.succeed("compare one other").out;
    assert!(
        table.contains("McNemar's test") && table.contains("training.seed"),
        "{table}"
    );
}

#[test]
fn runs_that_judged_other_pictures_are_not_compared() {
    let place = trained();
    place.succeed("train --preset quickstart --config tiny.toml --limit-test 10 --output fewer");
    let refused = failure(&place, "compare one other fewer");
    assert!(
        refused.contains("expected the same number of test images, found 20 and 10"),
        "{refused}"
    );
    let mut results: Value = serde_json::from_str(&text(&place, "other/results.json")).unwrap();
    results["sha256"] = "0".into();
    place.write("other/results.json", results.to_string());
    let refused = failure(&place, "compare one other");
    assert!(
        refused.contains("expected the same test images (sha256)"),
        "{refused}"
    );
    let said = place.run("compare one");
    assert_eq!(said.code, Some(2), "{}", said.err);
}

fn attention(place: &Sandbox, arguments: &str) -> (Said, Image) {
    let said = place.succeed(&format!(
        "attention --checkpoint one picture.png --output out.png {arguments}"
    ));
    let picture = Image::open(&place.path("out.png")).unwrap();
    (said, picture)
}

#[test]
fn attention_is_shown_of_what_was_asked_for() {
    let place = trained();
    let shapes = Source::Shapes
        .load(Split::Test, &LoadOptions::default())
        .unwrap();
    shapes.images()[0]
        .write_png(&place.path("picture.png"))
        .unwrap();

    let layers = [
        ("quickstart", Preset::Quickstart.table()),
        ("tiny", text(&place, "tiny.toml").parse().unwrap()),
    ];
    let looks = Recipe::from_layers(&layers).unwrap().model.cross_attends();
    let (said, sheet) = attention(&place, "");
    assert_eq!(said.out.lines().count(), 2 + looks, "{}", said.out);
    // The title, a titled row of images with captions a cross attention, and the bar of colours.
    let bar = 40;
    assert_eq!(sheet.height(), 8 + 24 + looks * (24 + 192 + 28) + bar);
    let (_, one) = attention(&place, "--mean --iteration 1");
    assert_eq!((one.height(), one.width()), (8 + 24 + 540 + bar, 528));
    let (_, all) = attention(&place, "--latent 2");
    assert_eq!((all.height(), all.width()), (one.height(), 8 + looks * 520));
    let (_, logits) = attention(&place, "--latent 2 --iteration 1 --logits");
    let (_, probabilities) = attention(&place, "--latent 2 --iteration 1");
    assert!(logits.pixels() != probabilities.pixels());

    for (arguments, expected) in [
        ("--latent 5", "latent: expected 1 to 4, found 5"),
        ("--latent 0", "--latent <N>': expected at least 1"),
        ("--mean --iteration 9", "found 9"),
    ] {
        let command =
            format!("attention --checkpoint one picture.png --output not.png {arguments}");
        let said = place.run(&command);
        assert_eq!(said.code, Some(2), "{}", said.err);
        assert!(said.err.contains(expected), "{}", said.err);
    }
    let missing = failure(
        &place,
        "attention --checkpoint one nowhere.png --output not.png",
    );
    assert!(missing.contains("nowhere.png"), "{missing}");
    assert!(!place.path("not.png").exists());
}

#[test]
fn attention_says_what_the_model_sees_in_every_image_and_heeds_the_name_of_the_file() {
    let place = trained();
    let shapes = Source::Shapes
        .load(Split::Test, &LoadOptions::default())
        .unwrap();
    for (at, file) in ["a.png", "b.png"].into_iter().enumerate() {
        shapes.images()[at].write_png(&place.path(file)).unwrap();
    }
    let said = place.succeed("attention --checkpoint one -o both.jpg --mean a.png b.png");
    let file = fs::read(place.path("both.jpg")).unwrap();
    assert_eq!(file[..3], [0xff, 0xd8, 0xff], "a JPEG file");
    let both = Image::open(&place.path("both.jpg")).unwrap();
    assert_eq!(both.height(), 8 + 2 * (24 + 540) + 40);
    let predicted = place.succeed("predict --checkpoint one --json a.png b.png");
    for (line, file) in predicted.out.lines().zip(["a.png", "b.png"]) {
        let said_of: Value = serde_json::from_str(line).unwrap();
        let best = &said_of["classes"][0];
        let expected = format!(
            "  {} {:.1}%, {file}\n",
            best["class"].as_str().unwrap(),
            100.0 * best["probability"].as_f64().unwrap()
        );
        assert!(said.out.contains(&expected), "{expected}{}", said.out);
    }
    for output in ["map.gif", "map"] {
        let refused = place.run(&format!("attention --checkpoint one -o {output} a.png"));
        assert_eq!(refused.code, Some(2), "{}", refused.err);
        assert!(refused.err.contains(".webp or .bmp"), "{}", refused.err);
        assert!(!place.path(output).exists());
    }
}

/// A confusion is a count of pictures: nothing is lost in it.
#[test]
fn every_picture_is_in_the_confusion_once() {
    let place = trained();
    let said = read_predictions(Path::new(&place.path("one/predictions.csv"))).unwrap();
    let confusion = Confusion::of(&said);
    assert_eq!(
        confusion.cells().map(|cell| cell.2).sum::<u64>(),
        said.len() as u64
    );
}
