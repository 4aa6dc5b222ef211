//! Failures of a Hub server: each ends in success after retries or in a clear error, and never in
//! another model than the requested one or in a partial commit.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;

use candle_core::Device;
use perceiver_data::{Fit, Labels, Normalization, Preprocessing};
use perceiver_hub::{HubAccess, HubError, RepoKind, Repository, Upload};
use perceiver_model::{Parameters, PerceiverConfig};
use perceiver_tests::http::{Request, Response};
use perceiver_tests::hub::{Files, HubServer, TOKEN};
use perceiver_train::{Checkpoint, CheckpointConfig, DataCard, write_weights};

const REPO: &str = "me/tiny";
const FILES: [&str; 2] = ["config.json", "model.safetensors"];

/// Returns a checkpoint whose weights are drawn from a seed.
fn checkpoint(seed: u64) -> Files {
    let model = PerceiverConfig {
        image_size: 8,
        patch_size: 4,
        latent_dim: 2,
        projection_dim: 4,
        num_heads: 1,
        head_dim: 4,
        num_transformer_blocks: 1,
        ffn_units: vec![4, 4],
        classifier_units: vec![4, 3],
        ..PerceiverConfig::default()
    };
    let preprocessing = Preprocessing {
        image_size: 8,
        antialias: false,
        fit: Fit::Stretch,
        normalization: Normalization {
            mean: vec![100.0; 3],
            variance: vec![50.0; 3],
        },
        transformers: None,
    };
    let card = DataCard {
        dataset: None,
        labels: Labels::Fine,
        train_images: seed as usize,
        train_sha256: String::new(),
        seed,
        split_seed: Some(0),
        init_overlap: None,
        limit_test: None,
        flip_average: false,
    };
    let parameters = Parameters::from_seed(&model, seed, &Device::Cpu).unwrap();
    let classes = ["ant", "bee", "cat"].map(String::from).to_vec();
    let config = CheckpointConfig::new(model, preprocessing, classes, card);
    let directory = tempfile::tempdir().unwrap();
    let tensors = parameters
        .iter()
        .map(|(name, variable)| (name, variable.as_tensor()));
    write_weights(tensors, &directory.path().join(FILES[1])).unwrap();
    config.write(&directory.path().join(FILES[0])).unwrap();
    let read = |name: &str| std::fs::read(directory.path().join(name)).unwrap();
    FILES.map(|name| (name.to_owned(), read(name))).into()
}

/// Starts a Hub with the checkpoint of seed 1 on `main`.
fn hub() -> HubServer {
    let hub = HubServer::start();
    let mut storage = hub.storage();
    let repositories = &mut storage.repositories;
    let repository = repositories.entry(REPO.to_owned()).or_default();
    repository.commit("main", checkpoint(1));
    drop(storage);
    hub
}

fn access(hub: &HubServer, cache: &Path) -> HubAccess {
    HubAccess {
        endpoint: Some(hub.url()),
        cache_dir: Some(cache.to_owned()),
        token: Some(TOKEN.into()),
        ..HubAccess::default()
    }
}

/// Fetches the checkpoint: returns its two files, or the error. Asserts that it can be opened.
fn fetched(access: &HubAccess) -> Result<Files, HubError> {
    let name: perceiver_hub::RepoName = REPO.parse().unwrap();
    let directory = name.fetch(RepoKind::Model, access, &FILES)?;
    Checkpoint::open(&directory, &Device::Cpu).expect("what is fetched is a checkpoint");
    let read = |file: &str| std::fs::read(directory.join(file)).unwrap();
    Ok(FILES.map(|file| (file.to_owned(), read(file))).into())
}

fn is_download(request: &Request) -> bool {
    request.method == "GET" && request.path.contains("/resolve/")
}

/// Returns the error from a Hub whose responses are always modified by `alter`.
fn refusal(alter: impl FnMut(&Request, Response) -> Response + Send + 'static) -> String {
    let (hub, cache) = (hub(), tempfile::tempdir().unwrap());
    hub.alter(alter);
    let error = fetched(&access(&hub, cache.path()))
        .unwrap_err()
        .to_string();
    assert!(!error.contains(TOKEN), "{error}");
    // Invalid content is not cached: with valid responses, the same cache gives the right model.
    hub.alter(|_, response| response);
    assert_eq!(fetched(&access(&hub, cache.path())).unwrap(), checkpoint(1));
    error
}

/// Asserts that the right model arrives after `alter` has modified the first `times` responses to
/// the requests selected by `concerns`.
fn recovers(
    mut times: usize,
    concerns: fn(&Request) -> bool,
    alter: impl Fn(Response) -> Response + Send + 'static,
) {
    let (hub, cache) = (hub(), tempfile::tempdir().unwrap());
    hub.alter(move |request, response| {
        if times == 0 || !concerns(request) {
            return response;
        }
        times -= 1;
        alter(response)
    });
    assert_eq!(fetched(&access(&hub, cache.path())).unwrap(), checkpoint(1));
}

#[test]
fn errors_state_what_to_do() {
    for (status, expected) in [
        (401, "a token in HF_TOKEN that may read it"),
        (403, "a token in HF_TOKEN that may read it"),
        (404, "check the name and the revision"),
        (429, "wait a while"),
        (503, "try again later"),
    ] {
        let error = refusal(move |request, _| {
            let sent = request.header("authorization").unwrap_or_default();
            Response::new(status, format!("{{\"error\": \"no, {sent}\"}}"))
                .with("Content-Type", "application/json")
                .with("Retry-After", "3600")
        });
        assert!(error.contains(expected), "{status}: {error}");
    }
}

#[test]
fn retry_after_is_honored() {
    // More often than `hf-hub` retries: the wait of one second is that of `perceiver-hub`.
    let busy = |_| Response::new(429, "").with("Retry-After", "1");
    recovers(5, |_| true, busy);
    recovers(2, is_download, busy);
}

#[test]
fn error_pages_are_not_cached() {
    let page = |length: Option<usize>| {
        move |request: &Request, response: Response| {
            if !is_download(request) {
                return response;
            }
            let length = length.unwrap_or(response.body().len());
            Response::new(200, vec![b'<'; length])
        }
    };
    let error = refusal(page(Some(30)));
    assert!(error.contains("found 30 bytes; it was removed"), "{error}");
    let error = refusal(page(None));
    assert!(
        error.contains("is a corrupt download: expected git's SHA-1"),
        "{error}"
    );
    // Only the weights, which are verified by SHA-256 instead of git's SHA-1.
    let error = refusal(|request, response| {
        let mut body = response.body().to_vec();
        if !is_download(request) || !request.path.ends_with("safetensors") {
            return response;
        }
        let last = body.len() - 1;
        body[last] ^= 1;
        Response::new(200, body)
    });
    assert!(error.contains("is a corrupt download"), "{error}");
    recovers(2, is_download, |_| Response::new(200, "<html>busy</html>"));
    // Pages in place of listings and headers.
    let error = refusal(|_, _| Response::new(200, "<html>maintenance</html>"));
    assert!(error.contains("no complete response"), "{error}");
    recovers(2, |_| true, |_| Response::new(200, "<html>busy</html>"));
}

#[test]
fn truncated_files_are_downloaded_again() {
    recovers(2, is_download, |response| response.cut_after(40));
    let error = refusal(|request, response| {
        if is_download(request) {
            response.cut_after(40)
        } else {
            response
        }
    });
    assert!(error.contains("no complete response"), "{error}");
    // Truncated, with a matching length.
    let error = refusal(|request, response| {
        if is_download(request) {
            Response::new(200, &response.body()[..40])
        } else {
            response
        }
    });
    assert!(error.contains("found 40 bytes"), "{error}");
}

#[test]
fn an_etag_that_changes_between_requests_is_an_error() {
    // The ETag and the content are both of other weights; only the listing of the commit differs.
    let other = checkpoint(2);
    let error = refusal(move |request, response| {
        let Some(file) = FILES.iter().find(|file| request.path.ends_with(*file)) else {
            return response;
        };
        if !request.path.contains("/resolve/") {
            return response;
        }
        let content = &other[*file];
        let commit = request.path.split('/').rev().nth(1).unwrap();
        Response::new(200, content.clone())
            .with(
                "ETag",
                &format!("\"{}\"", perceiver_tests::hub::sha256(content)),
            )
            .with("X-Repo-Commit", commit)
    });
    assert!(error.contains("is a corrupt download"), "{error}");
}

#[test]
fn a_branch_that_moves_during_a_download_gives_one_commit() {
    // Six requests: the revision, the listing, and two for each file.
    for at in 0..6 {
        let (hub, cache) = (hub(), tempfile::tempdir().unwrap());
        let hub = std::sync::Arc::new(hub);
        let mut count = 0;
        let mut moved = hub.storage()[REPO].clone();
        moved.commit("main", checkpoint(2));
        let next = std::sync::Arc::downgrade(&hub);
        hub.refuse(move |_| {
            if count == at
                && let Some(hub) = next.upgrade()
            {
                let repositories = &mut hub.storage().repositories;
                repositories.insert(REPO.to_owned(), moved.clone());
            }
            count += 1;
            None
        });
        let got = fetched(&access(&hub, cache.path())).unwrap();
        assert!(
            got == checkpoint(1) || got == checkpoint(2),
            "files of two commits, moved before request {at}"
        );
        // A later fetch gives the new commit.
        assert!(fetched(&access(&hub, cache.path())).unwrap() == checkpoint(2));
    }
}

/// Runs a test for many seeds on 16 threads, since it mostly waits.
fn for_seeds(count: u64, test: impl Fn(u64) + Sync) {
    thread::scope(|scope| {
        for part in 0..16 {
            let test = &test;
            scope.spawn(move || (part..count).step_by(16).for_each(test));
        }
    });
}

/// Returns a SplitMix64 generator of numbers below a limit.
fn numbers(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed;
    move |limit| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as usize % limit
    }
}

#[test]
fn dropped_connections_never_give_a_different_model() {
    let outcomes = std::sync::Mutex::new([0; 2]);
    for_seeds(64, |seed| {
        let (hub, cache) = (hub(), tempfile::tempdir().unwrap());
        let mut number = numbers(seed);
        let mut left = 1 + number(12);
        hub.alter(move |_, response| {
            if left == 0 || number(2) == 0 {
                return response;
            }
            left -= 1;
            let length = 200 + response.body().len();
            response.drop_at(number(length))
        });
        let outcome = match fetched(&access(&hub, cache.path())) {
            Ok(files) => {
                assert_eq!(files, checkpoint(1), "seed {seed}");
                0
            }
            Err(error) => {
                let error = error.to_string();
                assert!(
                    error.contains("no complete response"),
                    "seed {seed}: {error}"
                );
                1
            }
        };
        outcomes.lock().unwrap()[outcome] += 1;
        // The same cache, with a server that works again.
        hub.alter(|_, response| response);
        let files = fetched(&access(&hub, cache.path())).unwrap();
        assert_eq!(files, checkpoint(1), "seed {seed}");
    });
    let [succeeded, _] = outcomes.into_inner().unwrap();
    assert!(succeeded > 0, "repetition never helped");
}

#[test]
fn interrupted_uploads_are_atomic() {
    let outcomes = std::sync::Mutex::new([0; 2]);
    for_seeds(48, |seed| {
        let (hub, cache) = (hub(), tempfile::tempdir().unwrap());
        let mut number = numbers(1000 + seed);
        let before = hub.storage()[REPO].files("main").cloned().unwrap();
        let mut left = 1 + number(10);
        let mut refuse_left = number(10);
        let mut other = numbers(2000 + seed);
        // Failures before a request is handled, and during its response.
        hub.refuse(move |_| {
            if refuse_left == 0 || other(3) > 0 {
                return None;
            }
            refuse_left -= 1;
            Some(Response::new(500, "").drop_at(0))
        });
        hub.alter(move |_, response| {
            if left == 0 || number(2) == 0 {
                return response;
            }
            left -= 1;
            response.drop_at(number(150))
        });
        let files = checkpoint(2);
        let uploads: Vec<Upload> = files
            .iter()
            .map(|(path, content)| Upload::bytes(path, content.clone()))
            .collect();
        let access = access(&hub, cache.path());
        let repository = Repository::connect(RepoKind::Model, REPO, &access).unwrap();
        let outcome = repository
            .create(false)
            .and_then(|()| repository.upload("main", "two", &uploads));
        let there: BTreeMap<_, _> = hub.storage()[REPO].files("main").cloned().unwrap();
        assert!(
            there == before || there == files,
            "half a commit, seed {seed}"
        );
        match outcome {
            Ok(commit) => {
                assert_eq!(there, files, "seed {seed}");
                let storage = hub.storage();
                assert_eq!(storage[REPO].files(&commit.id), Some(&files));
                outcomes.lock().unwrap()[0] += 1;
            }
            Err(error) => {
                let error = error.to_string();
                assert!(
                    error.contains("no complete response") && !error.contains(TOKEN),
                    "seed {seed}: {error}"
                );
                outcomes.lock().unwrap()[1] += 1;
            }
        }
    });
    let [succeeded, _] = outcomes.into_inner().unwrap();
    assert!(succeeded > 0, "repetition never helped");
}

#[test]
fn an_invalid_token_cannot_write() {
    let (hub, cache) = (hub(), tempfile::tempdir().unwrap());
    let access = HubAccess {
        token: Some("hf_NotTheRightOne1".into()),
        ..access(&hub, cache.path())
    };
    let repository = Repository::connect(RepoKind::Model, REPO, &access).unwrap();
    let files = [Upload::bytes("a", "b")];
    for error in [
        repository.create(false).unwrap_err(),
        repository.upload("main", "no", &files).unwrap_err(),
    ] {
        let shown = format!("{error} {error:?} {repository:?}");
        assert!(
            shown.contains("write access") && !shown.contains("NotTheRightOne1"),
            "{shown}"
        );
    }
    assert_eq!(hub.storage()[REPO].commits.len(), 1);
}

#[test]
fn damaged_caches_are_repaired_and_never_used_offline() {
    let (hub, cache) = (hub(), tempfile::tempdir().unwrap());
    let online = access(&hub, cache.path());
    let offline = HubAccess {
        offline: true,
        ..online.clone()
    };
    assert!(fetched(&offline).is_err());
    fetched(&online).unwrap();
    assert_eq!(fetched(&offline).unwrap(), checkpoint(1));
    let blobs = cache.path().join("models--me--tiny/blobs");
    let damage = || {
        for blob in std::fs::read_dir(&blobs).unwrap() {
            let path = blob.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(path, bytes).unwrap();
        }
    };
    damage();
    assert_eq!(fetched(&online).unwrap(), checkpoint(1));
    damage();
    let error = fetched(&offline).unwrap_err().to_string();
    assert!(error.contains("is a corrupt download"), "{error}");
}
