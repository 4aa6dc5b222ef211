//! Data sets from a Hub server on loopback: exact pixels, the cache, and server failures.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use perceiver_data::{
    Cifar, DataError, Dataset, Groups, HubAccess, HubDataset, Image, Labels, LoadOptions, Source,
    Split, TestSplit, write_parquet,
};
use perceiver_tests::http::{Request, Response, Server};
use perceiver_tests::hub::{large_entry, sha256};
use serde_json::json;
use xtask::download::HttpOptions;
use xtask::fetch::{Fetch, Origin, Outcome};
use xtask::progress::Silent;
use xtask::spec::{DatasetSpec, FileSpec};

const TOKEN: &str = "hf_NobodyMayReadThis";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Returns images without any symmetry, each different from the others.
fn sample_images(count: usize, (height, width): (usize, usize)) -> Dataset {
    let image = |at: usize| {
        let pixel = |index: usize| (index * 7 + at * 13 + index / 11) as u8;
        Image::new(height, width, (0..3 * height * width).map(pixel).collect()).unwrap()
    };
    let labels = (0..count as u32).map(|at| at % 3).collect();
    let classes = ["ant", "bee", "cat"].map(String::from).to_vec();
    Dataset::new("toy", (0..count).map(image).collect(), labels, classes).unwrap()
}

fn grouped(dataset: Dataset) -> Dataset {
    let names = ["pet", "insect"].map(String::from).to_vec();
    dataset
        .with_groups(Groups {
            names,
            of_class: vec![1, 1, 0],
        })
        .unwrap()
}

fn parquet(dataset: &Dataset) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file.parquet");
    write_parquet(&path, dataset).unwrap();
    fs::read(path).unwrap()
}

/// The files of one revision of one repository, by path.
type Files = BTreeMap<String, Vec<u8>>;

fn two_splits(train: &Dataset, test: &Dataset) -> Files {
    let file = |split: &str, dataset| {
        (
            format!("data/{split}-00000-of-00001.parquet"),
            parquet(dataset),
        )
    };
    Files::from([
        file("train", train),
        file("test", test),
        ("README.md".into(), b"# toy".to_vec()),
    ])
}

/// Starts a Hub with `files` at `revision` of `repo`. `alter` may modify responses to downloads.
fn hub(
    repo: &str,
    revision: &str,
    files: Files,
    alter: impl Fn(&Request, Response) -> Response + Send + Sync + 'static,
) -> Server {
    let revision = revision.replace('/', "%2F");
    let tree = format!("/api/datasets/{repo}/tree/{revision}");
    let resolve = format!("/datasets/{repo}/resolve/{revision}/");
    Server::start(move |request| {
        if request.path == tree {
            let entry =
                |(path, bytes): (&String, &Vec<u8>)| large_entry(path, bytes.len(), &sha256(bytes));
            let list: Vec<_> = files.iter().map(entry).collect();
            return Response::new(200, json!(list).to_string())
                .with("Content-Type", "application/json");
        }
        let Some(bytes) = request
            .path
            .strip_prefix(&resolve)
            .and_then(|path| files.get(path))
        else {
            return Response::new(404, r#"{"error": "Not found"}"#);
        };
        let response = Response::new(200, bytes.clone())
            .with("ETag", &format!("\"{}\"", sha256(bytes)))
            .with("X-Repo-Commit", COMMIT);
        if request.method == "GET" {
            alter(request, response)
        } else {
            response
        }
    })
}

fn honest(_: &Request, response: Response) -> Response {
    response
}

/// Returns the data set `repo` of `server`, with its own cache and token, so that no test sends
/// the user's token.
fn dataset(repo: &str, server: &Server, cache: &Path) -> HubDataset {
    let mut dataset = HubDataset::new(repo);
    dataset.access = HubAccess {
        endpoint: Some(server.url("")),
        cache_dir: Some(cache.to_owned()),
        token: Some(TOKEN.into()),
        ..HubAccess::default()
    };
    dataset
}

fn downloads(server: &Server) -> usize {
    let is_download =
        |request: &&Request| request.method == "GET" && request.path.contains("/resolve/");
    server.requests().iter().filter(is_download).count()
}

/// Returns the number of files in the cache, not counting links.
fn blobs(cache: &Path) -> usize {
    fs::read_dir(cache.join("datasets--uoft-cs--cifar100/blobs")).map_or(0, Iterator::count)
}

#[test]
fn images_keep_their_pixels_and_order() {
    let (train, test) = (
        grouped(sample_images(10, (4, 6))),
        grouped(sample_images(5, (6, 3))),
    );
    let server = hub(
        "uoft-cs/cifar100",
        "main",
        two_splits(&train, &test),
        honest,
    );
    let cache = tempfile::tempdir().unwrap();
    let cifar = dataset("uoft-cs/cifar100", &server, cache.path());
    cifar.check().unwrap();
    assert_eq!(downloads(&server), 0);
    let loaded = cifar.load(Split::Train, 32).unwrap();
    assert_eq!(loaded.sha256(), train.sha256());
    assert_eq!(
        (loaded.images(), loaded.groups()),
        (train.images(), train.groups())
    );
    assert_eq!(cifar.load(Split::Test, 32).unwrap().sha256(), test.sha256());

    let coarse = HubDataset {
        labels: Labels::Coarse,
        ..cifar
    };
    let coarse = coarse.load(Split::Train, 32).unwrap();
    assert_eq!(coarse.classes(), ["pet", "insect"]);
    assert_eq!(coarse.labels()[..3], [1, 1, 0]);
    assert_eq!(downloads(&server), 2, "each file is downloaded once");
}

#[test]
fn other_datasets_are_shuffled_by_the_seed() {
    let (train, test) = (sample_images(30, (3, 2)), sample_images(3, (3, 2)));
    let server = hub("me/toy", "main", two_splits(&train, &test), honest);
    let cache = tempfile::tempdir().unwrap();
    let load = |seed| {
        let toy = HubDataset {
            seed,
            ..dataset("me/toy", &server, cache.path())
        };
        toy.load(Split::Train, 32).unwrap()
    };
    let (zero, again, one) = (load(0), load(0), load(1));
    assert_eq!(zero.sha256(), again.sha256());
    assert_ne!(zero.sha256(), one.sha256());
    let sorted = |dataset: &Dataset| {
        let mut rows: Vec<(Vec<u8>, u32)> = dataset
            .images()
            .iter()
            .map(|image| image.pixels().to_vec())
            .zip(dataset.labels().to_vec())
            .collect();
        rows.sort();
        rows
    };
    assert_eq!(sorted(&one), sorted(&train));
}

#[test]
fn the_converted_branch_is_read_if_main_has_no_parquet() {
    let (train, test) = (sample_images(4, (3, 2)), sample_images(2, (3, 2)));
    let files = Files::from([
        ("default/train/0000.parquet".to_owned(), parquet(&train)),
        ("default/validation/0000.parquet".to_owned(), parquet(&test)),
    ]);
    let server = hub("me/toy", "refs/convert/parquet", files, honest);
    let cache = tempfile::tempdir().unwrap();
    let toy = dataset("me/toy", &server, cache.path());
    assert_eq!(toy.load(Split::Train, 32).unwrap().len(), 4);
    let test = toy.load(Split::Test, 32).unwrap();
    assert_eq!(
        (test.len(), test.test_split().0),
        (2, TestSplit::Validation)
    );
    assert!(toy.load(Split::Validation, 32).unwrap().is_empty());
}

#[test]
fn a_separate_validation_split_is_used() {
    let (train, test) = (sample_images(4, (3, 2)), sample_images(2, (3, 2)));
    let mut files = two_splits(&train, &test);
    files.insert(
        "data/validation-0.parquet".into(),
        parquet(&sample_images(3, (3, 2))),
    );
    let server = hub("me/toy", "main", files, honest);
    let cache = tempfile::tempdir().unwrap();
    let toy = dataset("me/toy", &server, cache.path());
    let validation = toy.load(Split::Validation, 32).unwrap();
    assert_eq!(
        (validation.len(), validation.classes()),
        (3, train.classes())
    );
    let test = toy.load(Split::Test, 32).unwrap();
    assert_eq!((test.len(), test.test_split().0), (2, TestSplit::Own));
}

#[test]
fn a_source_by_name_reads_the_hub() {
    let source: Source = "hf:me/toy:image:label".parse().unwrap();
    assert_eq!(source.to_string(), "hf:me/toy:image:label");
    let error = "hf:".parse::<Source>().unwrap_err();
    assert!(matches!(error, DataError::InvalidOption { .. }), "{error}");
    assert_eq!(LoadOptions::default().seed, 0);
}

#[test]
fn error_pages_are_rejected_and_not_cached() {
    let (train, test) = (sample_images(4, (3, 2)), sample_images(2, (3, 2)));
    let server = hub(
        "uoft-cs/cifar100",
        "main",
        two_splits(&train, &test),
        |_, _| Response::new(200, "<html>we are busy</html>"),
    );
    let cache = tempfile::tempdir().unwrap();
    let error = dataset("uoft-cs/cifar100", &server, cache.path())
        .load(Split::Train, 32)
        .unwrap_err();
    assert!(matches!(error, DataError::WrongDownload { .. }), "{error}");
    assert!(error.to_string().contains("found 24 bytes"), "{error}");
    assert_eq!(blobs(cache.path()), 0);

    // A page of the same length as the file, and another Parquet file.
    for page in [
        vec![b' '; parquet(&train).len()],
        parquet(&sample_images(4, (2, 3))),
    ] {
        let altered = Arc::new(Mutex::new(page));
        let server = hub(
            "uoft-cs/cifar100",
            "main",
            two_splits(&train, &test),
            move |_, _| Response::new(200, altered.lock().unwrap().clone()),
        );
        let cifar = dataset("uoft-cs/cifar100", &server, cache.path());
        let error = cifar.load(Split::Train, 32).unwrap_err();
        assert!(matches!(error, DataError::WrongDownload { .. }), "{error}");
        assert_eq!(blobs(cache.path()), 0);
    }
}

#[test]
fn failed_downloads_are_retried() {
    let (train, test) = (sample_images(40, (5, 7)), sample_images(2, (3, 2)));
    let count = AtomicUsize::new(0);
    let server = hub(
        "uoft-cs/cifar100",
        "main",
        two_splits(&train, &test),
        move |_, response| match count.fetch_add(1, Ordering::Relaxed) {
            0 => response.cut_after(100),
            1 => Response::new(200, "<html>"),
            _ => response,
        },
    );
    let cache = tempfile::tempdir().unwrap();
    let cifar = dataset("uoft-cs/cifar100", &server, cache.path());
    assert_eq!(
        cifar.load(Split::Train, 32).unwrap().sha256(),
        train.sha256()
    );
    assert_eq!(downloads(&server), 3);
}

#[test]
fn damaged_caches_are_detected_and_repaired() {
    let (train, test) = (sample_images(4, (3, 2)), sample_images(2, (3, 2)));
    let server = hub(
        "uoft-cs/cifar100",
        "main",
        two_splits(&train, &test),
        honest,
    );
    let cache = tempfile::tempdir().unwrap();
    let cifar = dataset("uoft-cs/cifar100", &server, cache.path());
    cifar.load(Split::Train, 32).unwrap();
    let blobs = cache.path().join("datasets--uoft-cs--cifar100/blobs");
    let damage = || {
        let blob = fs::read_dir(&blobs)
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        let mut bytes = fs::read(&blob).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(blob, bytes).unwrap();
    };
    damage();
    assert_eq!(
        cifar.load(Split::Train, 32).unwrap().sha256(),
        train.sha256()
    );
    assert_eq!(downloads(&server), 2);

    damage();
    let mut offline = cifar.clone();
    offline.access.offline = true;
    let error = offline.load(Split::Train, 32).unwrap_err();
    assert!(error.to_string().contains("expected SHA-256"), "{error}");
}

#[test]
fn the_cache_works_offline_and_without_a_server() {
    let (train, test) = (sample_images(4, (3, 2)), sample_images(2, (3, 2)));
    let server = hub(
        "uoft-cs/cifar100",
        "main",
        two_splits(&train, &test),
        honest,
    );
    let cache = tempfile::tempdir().unwrap();
    let cifar = dataset("uoft-cs/cifar100", &server, cache.path());
    cifar.load(Split::Train, 32).unwrap();
    let mut offline = cifar.clone();
    offline.access.offline = true;
    let asked = server.requests().len();
    assert_eq!(
        offline.load(Split::Train, 32).unwrap().sha256(),
        train.sha256()
    );
    assert_eq!(server.requests().len(), asked, "offline means no request");

    // The test split was not loaded, so it is not in the cache.
    let error = offline.load(Split::Test, 32).unwrap_err().to_string();
    assert!(error.contains("no Parquet file of a test"), "{error}");
    assert!(error.contains("HF_HUB_OFFLINE"), "{error}");

    drop(server); // no server listens any more
    assert_eq!(
        cifar.load(Split::Train, 32).unwrap().sha256(),
        train.sha256()
    );
}

#[test]
fn offline_errors_without_a_cache_state_what_to_do() {
    let server = hub("uoft-cs/cifar100", "main", Files::new(), honest);
    let cache = tempfile::tempdir().unwrap();
    let cifar = dataset("uoft-cs/cifar100", &server, cache.path());
    drop(server);
    let error = cifar.load(Split::Train, 32).unwrap_err().to_string();
    assert!(
        error.starts_with(
            "data set uoft-cs/cifar100 on the Hub: no complete response from http://127.0.0.1"
        ),
        "{error}"
    );
    assert!(
        error.contains("copy its cache directory here and set HF_HUB_OFFLINE=1"),
        "{error}"
    );
}

#[test]
fn repositories_without_images_or_a_split_are_rejected() {
    let cache = tempfile::tempdir().unwrap();
    let server = hub("me/toy", "main", Files::new(), honest);
    let error = dataset("me/toy", &server, cache.path())
        .check()
        .unwrap_err()
        .to_string();
    assert!(error.contains("404"), "{error}"); // of refs/convert/parquet

    let only_train = Files::from([(
        "data/train-0.parquet".to_owned(),
        parquet(&sample_images(2, (3, 2))),
    )]);
    let server = hub("me/toy", "main", only_train, honest);
    let error = dataset("me/toy", &server, cache.path())
        .check()
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no Parquet file of a test or validation split"),
        "{error}"
    );

    let error = dataset("me/other", &server, cache.path())
        .check()
        .unwrap_err()
        .to_string();
    assert!(error.contains("check the name and the revision"), "{error}");
}

#[test]
fn the_token_is_sent_and_never_shown() {
    let server = Server::start(|request| {
        let sent = request.header("authorization").unwrap_or_default();
        let body = json!({"error": format!("{sent} may not read this")}).to_string();
        Response::new(403, body).with("Content-Type", "application/json")
    });
    let cache = tempfile::tempdir().unwrap();
    let toy = dataset("me/toy", &server, cache.path());
    let error = toy.load(Split::Train, 32).unwrap_err();
    let sent = format!("Bearer {TOKEN}");
    assert_eq!(
        server.requests()[0].header("authorization"),
        Some(sent.as_str())
    );
    let shown = format!("{error} {error:?} {toy:?}");
    assert!(
        shown.contains("may not read this") && !shown.contains(TOKEN),
        "{shown}"
    );
    assert!(error.to_string().contains("HF_TOKEN"), "{error}");
}

#[test]
fn progress_reaches_the_whole_size() {
    let (train, test) = (sample_images(40, (5, 7)), sample_images(2, (3, 2)));
    let server = hub(
        "uoft-cs/cifar100",
        "main",
        two_splits(&train, &test),
        honest,
    );
    let cache = tempfile::tempdir().unwrap();
    let mut cifar = dataset("uoft-cs/cifar100", &server, cache.path());
    let seen = Arc::new(Mutex::new(Vec::new()));
    cifar.access.on_progress = Some(Arc::new({
        let seen = Arc::clone(&seen);
        move |progress| {
            seen.lock()
                .unwrap()
                .push((progress.file.to_owned(), progress.done, progress.total));
        }
    }));
    cifar.load(Split::Train, 32).unwrap();
    let seen = seen.lock().unwrap();
    let size = parquet(&train).len() as u64;
    let file = "data/train-00000-of-00001.parquet".to_owned();
    assert_eq!(seen.last(), Some(&(file, size, size)));
}

#[test]
fn fetch_data_writes_the_official_layout_from_the_hub() {
    let (train, test) = (
        grouped(sample_images(9, (32, 32))),
        grouped(sample_images(4, (32, 32))),
    );
    let server = hub(
        "uoft-cs/cifar100",
        "main",
        two_splits(&train, &test),
        honest,
    );
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");

    // The expected files, composed here: coarse label, fine label, planes.
    let of_class = [1, 1, 0];
    let records = |dataset: &Dataset| -> Vec<u8> {
        let rows = dataset.images().iter().zip(dataset.labels());
        rows.flat_map(|(image, &fine)| {
            let labels = [of_class[fine as usize], fine as u8];
            labels
                .into_iter()
                .chain(image.pixels().iter().copied())
                .collect::<Vec<u8>>()
        })
        .collect()
    };
    let file = |name: &str, bytes: &[u8]| FileSpec {
        name: name.into(),
        size: Some(bytes.len() as u64),
        sha256: Some(sha256(bytes)),
    };
    let spec = DatasetSpec {
        files: vec![
            file("train.bin", &records(&train)),
            file("test.bin", &records(&test)),
            file("fine_label_names.txt", b"ant\nbee\ncat\n"),
            file("coarse_label_names.txt", b"pet\ninsect\n"),
        ],
        ..DatasetSpec::cifar100()
    };
    let data_dir = dir.path().join("data");
    let fetch = Fetch {
        spec: &spec,
        data_dir: &data_dir,
        http: HttpOptions::default(),
        progress: &Silent,
    };
    let origin = Origin::Hub(Box::new(dataset("uoft-cs/cifar100", &server, &cache)));
    assert_eq!(fetch.run(&origin).unwrap(), Outcome::Installed);
    let read = Cifar::Hundred
        .read(&data_dir, Split::Train, Labels::Fine)
        .unwrap();
    assert_eq!(
        (read.images(), read.labels()),
        (train.images(), train.labels())
    );
    assert_eq!(fetch.run(&origin).unwrap(), Outcome::AlreadyThere);

    // Images other than the official ones are not installed.
    let official = Fetch {
        spec: &DatasetSpec::cifar100(),
        data_dir: &dir.path().join("official"),
        http: HttpOptions::default(),
        progress: &Silent,
    };
    let error = official.run(&origin).unwrap_err().to_string();
    assert!(
        error.contains("train.bin: expected 153700000 bytes"),
        "{error}"
    );
    assert!(!official.target().exists());
}
