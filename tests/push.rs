//! A model's way to a Hub on loopback and back: what arrives is what was sent, to the last digit, and no token is ever shown.

use std::fs;
use std::path::Path;
use std::process::Command;

use candle_core::{DType, Device, Tensor};
use insta::assert_snapshot;
use perceiver_data::{LoadOptions, Source, Split};
use perceiver_hub::HubAccess;
use perceiver_model::Perceiver;
use perceiver_ops::Mode;
use perceiver_tests::hub::{HubServer, TOKEN};
use perceiver_tests::program::{Said, Sandbox};
use perceiver_train::Checkpoint;

const REPO: &str = "me/shapes";

/// Variables of whoever runs the tests that would lead the program to another Hub, cache or token.
const NOT_OURS: [&str; 6] = [
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_TOKEN_PATH",
    "HF_HUB_OFFLINE",
    "HF_HUB_USER_AGENT_ORIGIN",
    "HF_TOKEN",
];

/// A Hub, and a workplace with a model trained on shapes in `run` and three pictures.
struct Place {
    work: Sandbox,
    hub: HubServer,
}

impl Place {
    fn trained() -> Self {
        Self::trained_beside(HubServer::start())
    }

    fn trained_beside(hub: HubServer) -> Self {
        let work = Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
        work.succeed("train --preset quickstart --config tiny.toml --output run");
        let shapes = Source::Shapes
            .load(Split::Test, &LoadOptions::default())
            .unwrap();
        for (index, image) in shapes.images().iter().take(3).enumerate() {
            let path = work.path(format!("{index}.png"));
            image.write_png(&path).unwrap();
        }
        Self { work, hub }
    }

    /// The program, with this Hub, an own cache and no token.
    fn command(&self, arguments: &str) -> Command {
        let mut command = self.work.command(arguments);
        for variable in NOT_OURS {
            command.env_remove(variable);
        }
        command
            .env("HF_ENDPOINT", self.hub.url())
            .env("HF_HOME", self.work.path("hf"))
            .env("NO_PROXY", "127.0.0.1");
        command
    }

    /// Runs the program with the token that may write.
    fn run(&self, arguments: &str) -> Said {
        said(self.command(arguments).env("HF_TOKEN", TOKEN))
    }

    fn succeed(&self, arguments: &str) -> Said {
        let said = self.run(arguments);
        assert_eq!(said.code, Some(0), "{arguments}: {}", said.err);
        said
    }

    fn fail(&self, arguments: &str) -> String {
        let said = self.run(arguments);
        assert_eq!(said.code, Some(1), "{arguments}: {} {}", said.out, said.err);
        assert!(!said.err.contains("panicked"), "{}", said.err);
        said.err
    }

    /// The names of the files at a revision of the repository.
    fn files(&self, revision: &str) -> Vec<String> {
        let storage = self.hub.storage();
        let files = storage[REPO].files(revision).expect("the revision");
        files.keys().cloned().collect()
    }

    fn file(&self, name: &str) -> Vec<u8> {
        self.hub.storage()[REPO].files("main").unwrap()[name].clone()
    }
}

fn said(command: &mut Command) -> Said {
    let output = command.output().unwrap();
    let said = Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    };
    assert!(
        !said.out.contains(TOKEN) && !said.err.contains(TOKEN),
        "a token was shown: {said:?}"
    );
    said
}

#[test]
fn a_model_comes_back_to_the_last_digit() {
    let place = Place::trained();
    let pushed = place.succeed("push --checkpoint run --repo me/shapes --data-dir data");
    assert!(
        pushed.out.starts_with("pushed to http://127.0.0.1"),
        "{}",
        pushed.out
    );
    let names = [
        ".gitattributes",
        "README.md",
        "config.json",
        "metrics.jsonl",
        "model.safetensors",
        "predictions.csv",
        "preprocessor_config.json",
        "recipe.toml",
        "results.json",
    ];
    assert_eq!(place.files("main"), names);
    assert_eq!(
        place.hub.storage()[REPO].commits.len(),
        2,
        "the first, and one with all files"
    );
    for name in ["config.json", "model.safetensors", "results.json"] {
        let here = fs::read(place.work.path("run").join(name)).unwrap();
        assert!(place.file(name) == here, "{name} differs");
    }

    let pictures = "0.png 1.png 2.png --json --top-k 20";
    let from_directory = place.succeed(&format!("predict --checkpoint run {pictures}"));
    let from_hub = place.succeed(&format!("predict --checkpoint {REPO} {pictures}"));
    assert_eq!(from_hub.out, from_directory.out);
    assert!(from_hub.out.lines().count() == 3 && from_hub.out.contains("probability"));

    let verified = place.succeed(&format!("verify {REPO}"));
    assert!(
        verified
            .out
            .contains("as claimed by README.md and results.json"),
        "{}",
        verified.out
    );
    let evaluated = |name: &str| place.succeed(&format!("evaluate --json --checkpoint {name}"));
    assert_eq!(evaluated(REPO).out, evaluated("run").out);
    let commit = place.hub.storage()[REPO].branches["main"].clone();
    let at = format!("summary --checkpoint {REPO}@{commit}");
    assert!(place.succeed(&at).out.contains("total"));

    // The cache is enough, by the flag, by the variable, and when nobody answers.
    let asked = place.hub.requests().len();
    let offline = format!("predict --offline --checkpoint {REPO} {pictures}");
    assert_eq!(place.succeed(&offline).out, from_directory.out);
    assert_eq!(
        place.hub.requests().len(),
        asked,
        "offline means no request"
    );
    let unknown = place.fail("predict --offline --checkpoint me/other 0.png");
    assert!(unknown.contains("main is not in the cache"), "{unknown}");
    place
        .hub
        .refuse(|_| Some(perceiver_tests::http::Response::new(500, "").drop_at(0)));
    let unreachable = place.succeed(&format!("predict --checkpoint {REPO} {pictures}"));
    assert_eq!(unreachable.out, from_directory.out);
}

#[test]
fn large_files_go_and_come_in_chunks() {
    let place = Place::trained_beside(HubServer::with_chunks());
    place.succeed("push --checkpoint run --repo me/shapes --no-verify");
    let asked = |part: &str| {
        let requests = place.hub.requests();
        requests.iter().filter(|it| it.path.contains(part)).count()
    };
    assert!(asked("/v1/xorbs/") > 0 && asked("/v1/shards") > 0);
    let here = fs::read(place.work.path("run/model.safetensors")).unwrap();
    assert!(place.file("model.safetensors") == here);
    let from_hub = place.succeed("predict --checkpoint me/shapes 0.png 1.png --json --top-k 20");
    let from_directory = place.succeed("predict --checkpoint run 0.png 1.png --json --top-k 20");
    assert_eq!(from_hub.out, from_directory.out);
    assert!(asked("/v1/reconstructions/") > 0);
}

#[test]
fn the_library_loads_by_name_what_the_directory_holds() {
    let place = Place::trained();
    place.succeed("push --checkpoint run --repo me/shapes --private --no-verify");
    assert!(place.hub.storage()[REPO].private);
    let cache = tempfile::tempdir().unwrap();
    let access = HubAccess {
        endpoint: Some(place.hub.url()),
        cache_dir: Some(cache.path().to_owned()),
        token: Some(TOKEN.into()),
        ..HubAccess::default()
    };
    let run = place.work.path("run");
    let here = Checkpoint::open(&run, &Device::Cpu).unwrap();
    let there = Checkpoint::from_pretrained_with(REPO, &access, &Device::Cpu).unwrap();
    assert_eq!(here.config, there.config);

    let images = Tensor::rand(-1f32, 1.0, (2, 3, 16, 16), &Device::Cpu).unwrap();
    let logits = |model: &Perceiver| -> Vec<Vec<f32>> {
        let logits = model.forward(&images, Mode::Inference).unwrap();
        logits.to_dtype(DType::F32).unwrap().to_vec2().unwrap()
    };
    let by_name = Perceiver::from_pretrained_with(REPO, &access, &Device::Cpu).unwrap();
    let name = run.to_str().unwrap();
    let by_directory = Perceiver::from_pretrained_with(name, &access, &Device::Cpu).unwrap();
    for model in [&there.model, &by_name, &by_directory] {
        assert_eq!(logits(model), logits(&here.model));
    }

    // Strangers do not see it.
    let stranger = HubAccess {
        token: Some("hf_Somebody1Else".into()),
        cache_dir: Some(cache.path().join("other")),
        ..access
    };
    let error = Checkpoint::from_pretrained_with(REPO, &stranger, &Device::Cpu)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("HF_TOKEN") && !error.contains("Somebody1Else"),
        "{error}"
    );
}

#[test]
fn a_branch_is_made_where_there_is_none() {
    let place = Place::trained();
    place.succeed("push --checkpoint run --repo me/shapes --no-verify --revision draft/1");
    assert_eq!(place.files("main"), [".gitattributes"]);
    assert!(place.files("draft/1").contains(&"model.safetensors".into()));
    // A second push to it.
    fs::write(place.work.path("run/README.md"), "# My own words\n").unwrap();
    place.succeed("push --checkpoint run --repo me/shapes --no-verify --revision draft/1");
    let storage = place.hub.storage();
    let files = storage[REPO].files("draft/1").unwrap();
    assert_eq!(files["README.md"], b"# My own words\n");
    drop(storage);
    let predict = "predict --checkpoint me/shapes@draft/1 0.png";
    assert_eq!(
        place.succeed(predict).out,
        place.succeed("predict --checkpoint run 0.png").out
    );
    let error = place.fail("predict --checkpoint me/shapes 0.png");
    assert!(error.contains("there is no config.json at main"), "{error}");
}

#[test]
fn what_is_public_is_not_taken_for_private() {
    let place = Place::trained();
    place.succeed("push --checkpoint run --repo me/shapes --no-verify");
    let before = place.hub.storage()[REPO].commits.len();
    let error = place.fail("push --checkpoint run --repo me/shapes --no-verify --private");
    assert!(
        error.contains("already exists and is not private"),
        "{error}"
    );
    assert_eq!(place.hub.storage()[REPO].commits.len(), before);
}

#[test]
fn a_dry_run_needs_neither_network_nor_token() {
    let place = Place::trained();
    let dry = "push --checkpoint run --repo me/shapes --private --dry-run -v";
    let output = said(place.command(dry).env("HF_HUB_OFFLINE", "1"));
    assert_eq!(output.code, Some(0), "{}", output.err);
    assert!(place.hub.requests().is_empty() && place.hub.storage().repositories.is_empty());
    assert!(
        output.out.contains("a private repository"),
        "{}",
        output.out
    );
    assert!(output.out.contains("pipeline_tag: image-classification"));
    assert!(!place.work.path("hf").exists(), "nothing is left behind");
    // With a token in the environment, too.
    let with_token = place.succeed(dry);
    assert_eq!(with_token.out, output.out);
}

/// Whoever trains on `/home/NAME/...` publishes a model, and nothing of that path.
#[test]
fn nothing_of_the_authors_disk_is_published() {
    let place = Place::trained();
    let photos = place.work.path("home/nadezhda/clinic/scans");
    for class in ["healthy", "ill"] {
        let folder = photos.join(class);
        fs::create_dir_all(&folder).unwrap();
        for index in 0..20 {
            let from = place.work.path(format!("{}.png", index % 3));
            fs::copy(from, folder.join(format!("{index}.png"))).unwrap();
        }
    }
    fs::rename(
        place.work.path("run"),
        place.work.path("home/nadezhda/parent"),
    )
    .unwrap();
    let here = place.work.path("");
    let absolute = |path: &str| place.work.path(path).display().to_string();
    let dataset = format!("folder:{}", photos.display());
    let parent = absolute("home/nadezhda/parent");
    for (number, dataset, parent, data_dir) in [
        (
            1,
            dataset.as_str(),
            parent.as_str(),
            absolute("home/nadezhda/data").as_str(),
        ),
        (
            2,
            "folder:home/nadezhda/clinic/scans",
            "home/nadezhda/parent",
            "home/nadezhda/data",
        ),
    ] {
        let run = absolute(&format!("home/nadezhda/own-{number}"));
        place.succeed(&format!(
            "train --preset quickstart --config tiny.toml --dataset {dataset} --init-from {parent} --data-dir {data_dir} --output {run}"
        ));
        let recipe = fs::read_to_string(Path::new(&run).join("training/recipe.toml")).unwrap();
        assert!(recipe.contains("nadezhda"), "{recipe}");
        let repo = format!("me/own-{number}");
        let dry = place.succeed(&format!("push --checkpoint {run} --repo {repo} --dry-run"));
        place.succeed(&format!("push --checkpoint {run} --repo {repo}"));
        let storage = place.hub.storage();
        let files = storage[repo.as_str()].files("main").unwrap();
        assert!(files.len() >= 9, "{:?}", files.keys());
        let shown = ("the dry run".to_string(), dry.out.into_bytes());
        for (name, content) in files.iter().chain([(&shown.0, &shown.1)]) {
            let text = String::from_utf8_lossy(content);
            let canonical = here.canonicalize().unwrap();
            for private in [
                "nadezhda",
                "clinic",
                here.to_str().unwrap(),
                canonical.to_str().unwrap(),
            ] {
                assert!(
                    !text.contains(private.trim_end_matches('/')),
                    "{name} tells {private}: {text}"
                );
            }
        }
        let text = |name: &str| String::from_utf8(files[name].clone()).unwrap();
        assert!(
            text("config.json").contains("\"folder:scans\""),
            "{}",
            text("config.json")
        );
        assert!(text("recipe.toml").contains("dataset = \"folder:scans\""));
        assert!(text("recipe.toml").contains("checkpoint = \"parent\""));
        assert!(text("results.json").contains("\"folder:scans\""));
        drop(storage);
        // It is the same model all the same, and can be verified by whoever has the images.
        place.succeed(&format!("verify {repo} --dataset {dataset}"));
    }
    // Words of one's own are for oneself to change.
    let run = place.work.path("home/nadezhda/own-1");
    fs::write(
        run.join("README.md"),
        format!("Trained in {}.\n", run.display()),
    )
    .unwrap();
    let before = place.hub.storage()["me/own-1"].commits.len();
    let error = place.fail(&format!(
        "push --checkpoint {} --repo me/own-1 --no-verify",
        run.display()
    ));
    assert!(
        error.contains("README.md: expected no directory of this machine"),
        "{error}"
    );
    assert_eq!(place.hub.storage()["me/own-1"].commits.len(), before);
}

#[test]
fn tokens_stay_out_of_everything() {
    let place = Place::trained();
    for log in ["info", "trace"] {
        let mut push = place.command("push --checkpoint run --repo me/shapes --no-verify -v");
        let pushed = said(push.env("HF_TOKEN", TOKEN).env("RUST_LOG", log));
        assert_eq!(pushed.code, Some(0), "{}", pushed.err);
        let mut predict = place.command("predict --checkpoint me/shapes 0.png -v");
        let predicted = said(predict.env("HF_TOKEN", TOKEN).env("RUST_LOG", log));
        assert_eq!(predicted.code, Some(0), "{}", predicted.err);
    }
    // A wrong one, which the server quotes in its refusal.
    let wrong = "hf_WrongTokenOfSomebody";
    let mut push = place.command("push --checkpoint run --repo me/shapes --no-verify -v");
    let refused = said(push.env("HF_TOKEN", wrong).env("RUST_LOG", "trace"));
    assert_eq!(refused.code, Some(1));
    let shown = format!("{}{}", refused.out, refused.err);
    assert!(!shown.contains(wrong), "{shown}");
    assert!(
        shown.contains("Invalid credentials") && shown.contains("write access"),
        "{shown}"
    );
    // And none.
    let mut push = place.command("push --checkpoint run --repo me/shapes --no-verify");
    let refused = said(push.env("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"));
    assert!(
        refused.code == Some(1) && refused.err.contains("set HF_TOKEN"),
        "{}",
        refused.err
    );
}

/// Changes the accuracy that a file claims, the first number after these words, by 30 points.
fn overstate(path: &Path, words: [&str; 2]) {
    let text = fs::read_to_string(path).unwrap();
    let mut at = 0;
    for word in words {
        at += text[at..].find(word).expect("an accuracy") + word.len();
    }
    let end = at + text[at..].find([',', '\n']).unwrap();
    let claimed: f64 = text[at..end].trim().parse().unwrap();
    let more = (claimed + 0.3).min(0.99);
    fs::write(path, format!("{}{more}{}", &text[..at], &text[end..])).unwrap();
}

#[test]
fn a_card_that_promises_too_much_is_refused() {
    let place = Place::trained();
    place.succeed("push --checkpoint run --repo me/shapes");
    let card = place.file("README.md");
    let results = fs::read(place.work.path("run/results.json")).unwrap();
    assert!(
        place
            .succeed("verify run")
            .out
            .contains("as claimed by results.json")
    );

    fs::write(place.work.path("run/README.md"), &card).unwrap();
    place.succeed("verify run");
    let card = place.work.path("run/README.md");
    overstate(&card, ["type: accuracy", "value: "]);
    let error = place.fail("verify run");
    assert!(error.contains("README.md: expected accuracy"), "{error}");
    let before = place.hub.storage()[REPO].commits.len();
    let error = place.fail("push --checkpoint run --repo me/shapes");
    assert!(error.contains("not pushed"), "{error}");
    fs::remove_file(place.work.path("run/README.md")).unwrap();

    overstate(&place.work.path("run/results.json"), ["{", "\"acc\": "]);
    let error = place.fail("push --checkpoint run --repo me/shapes");
    assert!(error.contains("results.json: expected accuracy"), "{error}");
    assert_eq!(place.hub.storage()[REPO].commits.len(), before);

    fs::write(place.work.path("run/results.json"), results).unwrap();
    place.succeed("verify run");
    fs::remove_file(place.work.path("run/results.json")).unwrap();
    let error = place.fail("verify run");
    assert!(error.contains("found neither"), "{error}");
}

#[test]
fn help_and_refusals() {
    let place = Place::trained();
    assert_snapshot!("help-push", place.succeed("push --help").out);
    assert_snapshot!("help-verify", place.succeed("verify --help").out);
    let refusals = [
        ("predict --checkpoint nowhere 0.png", 2),
        ("push --checkpoint run --repo shapes", 2),
        ("push --checkpoint run --repo me/shapes@v1", 2),
        ("push --checkpoint run --repo me/shapes --license My/Own", 2),
        ("push --checkpoint nowhere --repo me/shapes", 2),
        ("verify me/nothing", 1),
    ];
    let messages = refusals.map(|(arguments, code)| {
        let said = place.run(arguments);
        assert_eq!(said.code, Some(code), "{arguments}: {}", said.err);
        let told = said.err.replace(&place.hub.url(), "http://HUB");
        format!("$ perceiver {arguments}\n{told}")
    });
    assert_snapshot!("push-refusals", messages.join("\n"));
    let card = place
        .succeed("push --checkpoint run --repo me/shapes --dry-run")
        .out;
    let card = card.replace(&place.hub.url(), "http://HUB");
    for part in [
        "# me/shapes",
        "model-index:",
        "## Limitations",
        "perceiver verify me/shapes",
    ] {
        assert!(card.contains(part), "{card}");
    }
}
