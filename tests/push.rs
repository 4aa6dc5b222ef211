//! Pushing a model to a Hub on loopback and loading it again: the results are identical, and no
//! token is ever shown.

use std::fs;
use std::ops::Deref;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use insta::assert_snapshot;
use perceiver_data::{LoadOptions, Source, Split};
use perceiver_hub::HubAccess;
use perceiver_model::{Classifier, Perceiver};
use perceiver_ops::Mode;
use perceiver_tests::hub::{HubServer, TOKEN};
use perceiver_tests::hub_program::{HubSandbox, output_of};
use perceiver_tests::program::Sandbox;
use perceiver_train::Checkpoint;

const REPO: &str = "me/shapes";

/// A Hub, and a sandbox with a model trained on shapes in `run` and three images.
struct Workspace(HubSandbox);

impl Deref for Workspace {
    type Target = HubSandbox;

    fn deref(&self) -> &HubSandbox {
        &self.0
    }
}

impl Workspace {
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
        Self(HubSandbox { work, hub })
    }

    /// Returns the names of the files at a revision of the repository.
    fn files(&self, revision: &str) -> Vec<String> {
        let storage = self.hub.storage();
        let files = storage[REPO].files(revision).expect("the revision");
        files.keys().cloned().collect()
    }

    fn file(&self, name: &str) -> Vec<u8> {
        self.hub.storage()[REPO].files("main").unwrap()[name].clone()
    }
}

#[test]
fn a_pushed_model_predicts_identically() {
    let workspace = Workspace::trained();
    let pushed = workspace.succeed("push --checkpoint run --repo me/shapes --data-dir data");
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
    assert_eq!(workspace.files("main"), names);
    assert_eq!(
        workspace.hub.storage()[REPO].commits.len(),
        2,
        "the first, and one with all files"
    );
    for name in ["config.json", "model.safetensors", "results.json"] {
        let here = fs::read(workspace.work.path("run").join(name)).unwrap();
        assert!(workspace.file(name) == here, "{name} differs");
    }

    let images = "0.png 1.png 2.png --json --top-k 20";
    let from_directory = workspace.succeed(&format!("predict --checkpoint run {images}"));
    let from_hub = workspace.succeed(&format!("predict --checkpoint {REPO} {images}"));
    assert_eq!(from_hub.out, from_directory.out);
    assert!(from_hub.out.lines().count() == 3 && from_hub.out.contains("probability"));

    let verified = workspace.succeed(&format!("verify {REPO}"));
    assert!(
        verified
            .out
            .contains("as claimed by README.md and results.json"),
        "{}",
        verified.out
    );
    let evaluated = |name: &str| workspace.succeed(&format!("evaluate --json --checkpoint {name}"));
    assert_eq!(evaluated(REPO).out, evaluated("run").out);
    let commit = workspace.hub.storage()[REPO].branches["main"].clone();
    let at = format!("summary --checkpoint {REPO}@{commit}");
    assert!(workspace.succeed(&at).out.contains("total"));

    // The cache suffices: with the flag, with the variable, and without a server.
    let asked = workspace.hub.requests().len();
    let offline = format!("predict --offline --checkpoint {REPO} {images}");
    assert_eq!(workspace.succeed(&offline).out, from_directory.out);
    assert_eq!(
        workspace.hub.requests().len(),
        asked,
        "offline means no request"
    );
    let unknown = workspace.fail("predict --offline --checkpoint me/other 0.png");
    assert!(unknown.contains("main is not in the cache"), "{unknown}");
    workspace
        .hub
        .refuse(|_| Some(perceiver_tests::http::Response::new(500, "").drop_at(0)));
    let unreachable = workspace.succeed(&format!("predict --checkpoint {REPO} {images}"));
    assert_eq!(unreachable.out, from_directory.out);
}

#[test]
fn large_files_are_transferred_in_chunks() {
    let workspace = Workspace::trained_beside(HubServer::with_chunks());
    workspace.succeed("push --checkpoint run --repo me/shapes --no-verify");
    let asked = |part: &str| {
        let requests = workspace.hub.requests();
        requests.iter().filter(|it| it.path.contains(part)).count()
    };
    assert!(asked("/v1/xorbs/") > 0 && asked("/v1/shards") > 0);
    let here = fs::read(workspace.work.path("run/model.safetensors")).unwrap();
    assert!(workspace.file("model.safetensors") == here);
    let from_hub =
        workspace.succeed("predict --checkpoint me/shapes 0.png 1.png --json --top-k 20");
    let from_directory =
        workspace.succeed("predict --checkpoint run 0.png 1.png --json --top-k 20");
    assert_eq!(from_hub.out, from_directory.out);
    assert!(asked("/v1/reconstructions/") > 0);
}

#[test]
fn from_pretrained_by_name_equals_the_directory() {
    let workspace = Workspace::trained();
    workspace.succeed("push --checkpoint run --repo me/shapes --private --no-verify");
    assert!(workspace.hub.storage()[REPO].private);
    let cache = tempfile::tempdir().unwrap();
    let access = HubAccess {
        endpoint: Some(workspace.hub.url()),
        cache_dir: Some(cache.path().to_owned()),
        token: Some(TOKEN.into()),
        ..HubAccess::default()
    };
    let run = workspace.work.path("run");
    let here = Checkpoint::open(&run, &Device::Cpu).unwrap();
    let there = Checkpoint::from_pretrained_with(REPO, &access, &Device::Cpu).unwrap();
    assert_eq!(here.config, there.config);

    let images = Tensor::rand(-1f32, 1.0, (2, 3, 16, 16), &Device::Cpu).unwrap();
    let logits = |model: &dyn Classifier| -> Vec<Vec<f32>> {
        let logits = model.forward(&images, Mode::Inference).unwrap();
        logits.to_dtype(DType::F32).unwrap().to_vec2().unwrap()
    };
    let by_name = Perceiver::from_pretrained_with(REPO, &access, &Device::Cpu).unwrap();
    let name = run.to_str().unwrap();
    let by_directory = Perceiver::from_pretrained_with(name, &access, &Device::Cpu).unwrap();
    let models: [&dyn Classifier; 3] = [&*there.model, &by_name, &by_directory];
    for model in models {
        assert_eq!(logits(model), logits(&*here.model));
    }

    // It is not visible with another token.
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
fn missing_branches_are_created() {
    let workspace = Workspace::trained();
    workspace.succeed("push --checkpoint run --repo me/shapes --no-verify --revision draft/1");
    assert_eq!(workspace.files("main"), [".gitattributes"]);
    assert!(
        workspace
            .files("draft/1")
            .contains(&"model.safetensors".into())
    );
    // A second push to the same branch.
    fs::write(workspace.work.path("run/README.md"), "# My own words\n").unwrap();
    workspace.succeed("push --checkpoint run --repo me/shapes --no-verify --revision draft/1");
    let storage = workspace.hub.storage();
    let files = storage[REPO].files("draft/1").unwrap();
    assert_eq!(files["README.md"], b"# My own words\n");
    drop(storage);
    let predict = "predict --checkpoint me/shapes@draft/1 0.png";
    assert_eq!(
        workspace.succeed(predict).out,
        workspace.succeed("predict --checkpoint run 0.png").out
    );
    let error = workspace.fail("predict --checkpoint me/shapes 0.png");
    assert!(error.contains("there is no config.json at main"), "{error}");
}

#[test]
fn public_repositories_are_not_reported_as_private() {
    let workspace = Workspace::trained();
    workspace.succeed("push --checkpoint run --repo me/shapes --no-verify");
    let before = workspace.hub.storage()[REPO].commits.len();
    let error = workspace.fail("push --checkpoint run --repo me/shapes --no-verify --private");
    assert!(
        error.contains("already exists and is not private"),
        "{error}"
    );
    assert_eq!(workspace.hub.storage()[REPO].commits.len(), before);
}

#[test]
fn a_dry_run_needs_neither_network_nor_token() {
    let workspace = Workspace::trained();
    let dry = "push --checkpoint run --repo me/shapes --private --dry-run -v";
    let output = output_of(workspace.command(dry).env("HF_HUB_OFFLINE", "1"));
    assert_eq!(output.code, Some(0), "{}", output.err);
    assert!(workspace.hub.requests().is_empty() && workspace.hub.storage().repositories.is_empty());
    assert!(
        output.out.contains("a private repository"),
        "{}",
        output.out
    );
    assert!(output.out.contains("pipeline_tag: image-classification"));
    assert!(
        !workspace.work.path("hf").exists(),
        "nothing is left behind"
    );
    // The same with a token in the environment.
    let with_token = workspace.succeed(dry);
    assert_eq!(with_token.out, output.out);
}

/// Training on `/home/NAME/...` publishes a model, but no part of that path.
#[test]
fn local_paths_are_not_published() {
    let workspace = Workspace::trained();
    let photos = workspace.work.path("home/nadezhda/clinic/scans");
    for class in ["healthy", "ill"] {
        let folder = photos.join(class);
        fs::create_dir_all(&folder).unwrap();
        for index in 0..20 {
            let from = workspace.work.path(format!("{}.png", index % 3));
            fs::copy(from, folder.join(format!("{index}.png"))).unwrap();
        }
    }
    fs::rename(
        workspace.work.path("run"),
        workspace.work.path("home/nadezhda/parent"),
    )
    .unwrap();
    let here = workspace.work.path("");
    let absolute = |path: &str| workspace.work.path(path).display().to_string();
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
        workspace.succeed(&format!(
            "train --preset quickstart --config tiny.toml --dataset {dataset} --init-from {parent} --data-dir {data_dir} --output {run}"
        ));
        let recipe = fs::read_to_string(Path::new(&run).join("training/recipe.toml")).unwrap();
        assert!(recipe.contains("nadezhda"), "{recipe}");
        let repo = format!("me/own-{number}");
        let dry = workspace.succeed(&format!("push --checkpoint {run} --repo {repo} --dry-run"));
        workspace.succeed(&format!("push --checkpoint {run} --repo {repo}"));
        let storage = workspace.hub.storage();
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
        // The model is nonetheless the same, and can be verified by anyone who has the images.
        workspace.succeed(&format!("verify {repo} --dataset {dataset}"));
    }
    // A path in the user's own text is an error, since only the user can change it.
    let run = workspace.work.path("home/nadezhda/own-1");
    fs::write(
        run.join("README.md"),
        format!("Trained in {}.\n", run.display()),
    )
    .unwrap();
    let before = workspace.hub.storage()["me/own-1"].commits.len();
    let error = workspace.fail(&format!(
        "push --checkpoint {} --repo me/own-1 --no-verify",
        run.display()
    ));
    assert!(
        error.contains("README.md: expected no directory of this machine"),
        "{error}"
    );
    assert_eq!(workspace.hub.storage()["me/own-1"].commits.len(), before);
}

#[test]
fn tokens_stay_out_of_everything() {
    let workspace = Workspace::trained();
    for log in ["info", "trace"] {
        let mut push = workspace.command("push --checkpoint run --repo me/shapes --no-verify -v");
        let pushed = output_of(push.env("HF_TOKEN", TOKEN).env("RUST_LOG", log));
        assert_eq!(pushed.code, Some(0), "{}", pushed.err);
        let mut predict = workspace.command("predict --checkpoint me/shapes 0.png -v");
        let predicted = output_of(predict.env("HF_TOKEN", TOKEN).env("RUST_LOG", log));
        assert_eq!(predicted.code, Some(0), "{}", predicted.err);
    }
    // A wrong token, which the server quotes in its error.
    let wrong = "hf_WrongTokenOfSomebody";
    let mut push = workspace.command("push --checkpoint run --repo me/shapes --no-verify -v");
    let refused = output_of(push.env("HF_TOKEN", wrong).env("RUST_LOG", "trace"));
    assert_eq!(refused.code, Some(1));
    let shown = format!("{}{}", refused.out, refused.err);
    assert!(!shown.contains(wrong), "{shown}");
    assert!(
        shown.contains("Invalid credentials") && shown.contains("write access"),
        "{shown}"
    );
    // No token.
    let mut push = workspace.command("push --checkpoint run --repo me/shapes --no-verify");
    let refused = output_of(push.env("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"));
    assert!(
        refused.code == Some(1) && refused.err.contains("set HF_TOKEN"),
        "{}",
        refused.err
    );
}

/// Raises the accuracy that a file claims, the first number after `words`, by 30 points.
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
fn cards_with_overstated_results_are_rejected() {
    let workspace = Workspace::trained();
    workspace.succeed("push --checkpoint run --repo me/shapes");
    let card = workspace.file("README.md");
    let results = fs::read(workspace.work.path("run/results.json")).unwrap();
    assert!(
        workspace
            .succeed("verify run")
            .out
            .contains("as claimed by results.json")
    );

    fs::write(workspace.work.path("run/README.md"), &card).unwrap();
    workspace.succeed("verify run");
    let card = workspace.work.path("run/README.md");
    overstate(&card, ["type: accuracy", "value: "]);
    let error = workspace.fail("verify run");
    assert!(error.contains("README.md: expected accuracy"), "{error}");
    let before = workspace.hub.storage()[REPO].commits.len();
    let error = workspace.fail("push --checkpoint run --repo me/shapes");
    assert!(error.contains("not pushed"), "{error}");
    fs::remove_file(workspace.work.path("run/README.md")).unwrap();

    overstate(&workspace.work.path("run/results.json"), ["{", "\"acc\": "]);
    let error = workspace.fail("push --checkpoint run --repo me/shapes");
    assert!(error.contains("results.json: expected accuracy"), "{error}");
    assert_eq!(workspace.hub.storage()[REPO].commits.len(), before);

    fs::write(workspace.work.path("run/results.json"), results).unwrap();
    workspace.succeed("verify run");
    fs::remove_file(workspace.work.path("run/results.json")).unwrap();
    let error = workspace.fail("verify run");
    assert!(error.contains("found neither"), "{error}");
}

#[test]
fn help_and_refusals() {
    let workspace = Workspace::trained();
    assert_snapshot!("help-push", workspace.succeed("push --help").out);
    assert_snapshot!("help-verify", workspace.succeed("verify --help").out);
    let refusals = [
        ("predict --checkpoint nowhere 0.png", 2),
        ("push --checkpoint run --repo shapes", 2),
        ("push --checkpoint run --repo me/shapes@v1", 2),
        ("push --checkpoint run --repo me/shapes --license My/Own", 2),
        ("push --checkpoint nowhere --repo me/shapes", 2),
        ("verify me/nothing", 1),
    ];
    let messages = refusals.map(|(arguments, code)| {
        let output = workspace.run(arguments);
        assert_eq!(output.code, Some(code), "{arguments}: {}", output.err);
        let stderr = output.err.replace(&workspace.hub.url(), "http://HUB");
        format!("$ perceiver {arguments}\n{stderr}")
    });
    assert_snapshot!("push-refusals", messages.join("\n"));
    let card = workspace
        .succeed("push --checkpoint run --repo me/shapes --dry-run")
        .out;
    let card = card.replace(&workspace.hub.url(), "http://HUB");
    for part in [
        "# me/shapes",
        "model-index:",
        "## Limitations",
        "perceiver verify me/shapes",
    ] {
        assert!(card.contains(part), "{card}");
    }
}
