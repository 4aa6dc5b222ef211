//! `cargo xtask fetch-data` with a loopback server that fails in all ways in which servers and
//! networks fail.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use md5::Md5;
use perceiver_tests::digest::hex;
use perceiver_tests::http::{Request, Response, Server};
use perceiver_tests::program::names_in;
use sha2::{Digest, Sha256};
use xtask::download::HttpOptions;
use xtask::error::{Result, XtaskError};
use xtask::fetch::{Fetch, Origin, Outcome};
use xtask::progress::Silent;
use xtask::spec::{DatasetSpec, FileSpec};

const ETAG: &str = "\"v1\"";

/// Returns bytes that hardly compress: the outputs of a linear congruential generator.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn tar_gz(build: impl FnOnce(&mut tar::Builder<GzEncoder<Vec<u8>>>)) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    build(&mut tar);
    tar.into_inner().unwrap().finish().unwrap()
}

/// Adds an entry with its name verbatim, however unsafe.
fn add(tar: &mut tar::Builder<impl Write>, kind: tar::EntryType, name: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(bytes.len() as u64);
    header.set_cksum();
    tar.append(&header, bytes).unwrap();
}

/// A data set of two files, its archive, and a directory to install it in.
struct Toy {
    spec: DatasetSpec,
    archive: Vec<u8>,
    dir: tempfile::TempDir,
}

impl Toy {
    fn new() -> Self {
        let (train, names) = (noise(300_000), b"cat\ndog\n".to_vec());
        let archive = tar_gz(|tar| {
            add(tar, tar::EntryType::Directory, "toy-binary/", b"");
            add(tar, tar::EntryType::Regular, "toy-binary/train.bin", &train);
            add(tar, tar::EntryType::Regular, "toy-binary/names.txt", &names);
            add(
                tar,
                tar::EntryType::Regular,
                "toy-binary/readme.html",
                b"<p>not needed</p>",
            );
        });
        let file = |name: &str, bytes: &[u8]| FileSpec {
            name: name.into(),
            size: Some(bytes.len() as u64),
            sha256: Some(hex(&Sha256::digest(bytes))),
        };
        let spec = DatasetSpec {
            name: "toy".into(),
            directory: "toy-binary".into(),
            archive_url: "http://127.0.0.1/toy-binary.tar.gz".into(),
            archive_size: archive.len() as u64,
            archive_md5: hex(&Md5::digest(&archive)),
            files: vec![file("train.bin", &train), file("names.txt", &names)],
        };
        let dir = tempfile::tempdir().unwrap();
        Self { spec, archive, dir }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn target(&self) -> PathBuf {
        self.data().join("toy-binary")
    }

    fn partial(&self) -> PathBuf {
        self.data().join(".partial/toy-binary.tar.gz")
    }

    fn run(&self, origin: &Origin) -> Result<Outcome> {
        let fetch = Fetch {
            spec: &self.spec,
            data_dir: &self.data(),
            http: HttpOptions {
                attempts: 3,
                first_pause: Duration::from_millis(1),
                read_timeout: Duration::from_secs(5),
            },
            progress: &Silent,
        };
        fetch.run(origin)
    }

    fn fetch(&self, server: &Server) -> Result<Outcome> {
        self.run(&Origin::Url(server.url("/toy-binary.tar.gz")))
    }

    /// Starts a server for the archive. `alter` may modify each response, by its number.
    fn server(
        &self,
        alter: impl Fn(usize, Response) -> Response + Send + Sync + 'static,
    ) -> Server {
        let (archive, count) = (self.archive.clone(), AtomicUsize::new(0));
        Server::start(move |request| {
            let response = Response::file(request, &archive, ETAG);
            alter(count.fetch_add(1, Ordering::Relaxed), response)
        })
    }

    fn assert_installed(&self) {
        assert_eq!(
            fs::read(self.target().join("train.bin")).unwrap(),
            noise(300_000)
        );
        assert_eq!(
            fs::read(self.target().join("names.txt")).unwrap(),
            b"cat\ndog\n"
        );
        assert_eq!(names_in(&self.target()).len(), 2);
        // All temporary files are gone.
        assert_eq!(names_in(&self.data().join(".partial")), ["lock"]);
    }

    fn assert_nothing_in_place(&self) {
        assert!(!self.target().exists());
        assert!(!self.data().join(".partial/unpacked").exists());
    }
}

fn ranges(server: &Server) -> Vec<Option<String>> {
    let range = |request: &Request| request.header("range").map(str::to_owned);
    server.requests().iter().map(range).collect()
}

#[test]
fn downloads_are_verified_unpacked_and_installed_once() {
    let toy = Toy::new();
    let server = toy.server(|_, response| response);
    assert_eq!(toy.fetch(&server).unwrap(), Outcome::Installed);
    toy.assert_installed();
    assert_eq!(toy.fetch(&server).unwrap(), Outcome::AlreadyThere);
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn truncated_downloads_are_resumed() {
    let toy = Toy::new();
    let server = toy.server(|number, response| match number {
        0 => response.cut_after(100_000),
        1 => response.cut_after(50_000),
        _ => response,
    });
    toy.fetch(&server).unwrap();
    toy.assert_installed();
    let rest = |start: usize| Some(format!("bytes={start}-"));
    assert_eq!(ranges(&server), [None, rest(100_000), rest(150_000)]);
    assert_eq!(server.requests()[1].header("if-range"), Some(ETAG));
}

#[test]
fn changed_server_files_restart_the_download() {
    let toy = Toy::new();
    let (archive, count) = (toy.archive.clone(), AtomicUsize::new(0));
    let server = Server::start(move |request| match count.fetch_add(1, Ordering::Relaxed) {
        0 => Response::file(request, &noise(archive.len()), "\"old\"").cut_after(100_000),
        _ => Response::file(request, &archive, ETAG),
    });
    toy.fetch(&server).unwrap();
    toy.assert_installed();
}

#[test]
fn servers_without_ranges_restart_the_download() {
    let toy = Toy::new();
    let (archive, count) = (toy.archive.clone(), AtomicUsize::new(0));
    let server = Server::start(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        0 => Response::new(200, archive.clone()).cut_after(100_000),
        _ => Response::new(200, archive.clone()),
    });
    toy.fetch(&server).unwrap();
    toy.assert_installed();
}

#[test]
fn corrupt_partial_downloads_are_replaced() {
    let toy = Toy::new();
    fs::create_dir_all(toy.data().join(".partial")).unwrap();
    // Without a validator, the server cannot detect that the partial file is corrupt; the MD5 can.
    for leftover in [
        vec![7; 1000],
        vec![7; toy.archive.len()],
        vec![7; toy.archive.len() + 1],
    ] {
        fs::write(toy.partial(), leftover).unwrap();
        let server = toy.server(|_, response| response);
        assert_eq!(toy.fetch(&server).unwrap(), Outcome::Installed);
        toy.assert_installed();
        fs::remove_dir_all(toy.target()).unwrap();
    }
}

#[test]
fn transient_failures_are_retried() {
    let toy = Toy::new();
    let server = toy.server(|number, response| match number {
        0 => Response::new(503, "busy").with("Retry-After", "0"),
        1 => Response::new(429, "too many"),
        _ => response,
    });
    toy.fetch(&server).unwrap();
    toy.assert_installed();
}

#[test]
fn permanent_failures_are_errors() {
    let toy = Toy::new();
    let server = toy.server(|_, _| Response::new(500, "down"));
    let error = toy.fetch(&server).unwrap_err().to_string();
    assert!(error.contains("the server responded 500"), "{error}");
    assert!(error.contains("--from"), "{error}");
    assert_eq!(server.requests().len(), 3);

    let server = toy.server(|_, response| response.cut_after(0));
    assert!(matches!(
        toy.fetch(&server),
        Err(XtaskError::Unreachable { .. })
    ));
    toy.assert_nothing_in_place();
}

#[test]
fn stalled_downloads_are_retried() {
    let toy = Toy::new();
    let server = toy.server(|number, response| match number {
        0 => response.stall_after(100_000),
        _ => response,
    });
    let fetch = Fetch {
        spec: &toy.spec,
        data_dir: &toy.data(),
        http: HttpOptions {
            attempts: 3,
            first_pause: Duration::from_millis(1),
            read_timeout: Duration::from_millis(200),
        },
        progress: &Silent,
    };
    fetch
        .run(&Origin::Url(server.url("/toy-binary.tar.gz")))
        .unwrap();
    toy.assert_installed();
    assert_eq!(ranges(&server), [None, Some("bytes=100000-".to_owned())]);
}

#[test]
fn missing_files_are_not_retried() {
    let toy = Toy::new();
    let server = toy.server(|_, _| Response::new(404, "not here"));
    let error = toy.fetch(&server).unwrap_err().to_string();
    assert!(error.contains("found status 404"), "{error}");
    assert_eq!(server.requests().len(), 1);
    toy.assert_nothing_in_place();
}

#[test]
fn error_pages_with_status_200_are_rejected() {
    let toy = Toy::new();
    let page = "<html>please log in to this network</html>";
    let server = toy.server(move |_, _| Response::new(200, page).with("Content-Type", "text/html"));
    let error = toy.fetch(&server).unwrap_err().to_string();
    assert!(
        error.ends_with(&format!("found {} bytes of text/html", page.len())),
        "{error}"
    );
    toy.assert_nothing_in_place();
}

#[test]
fn a_wrong_md5_is_rejected() {
    let toy = Toy::new();
    let mut wrong = toy.archive.clone();
    wrong[50_000] ^= 1;
    let server = Server::start(move |request| Response::file(request, &wrong, ETAG));
    let error = toy.fetch(&server).unwrap_err().to_string();
    assert!(error.contains("expected MD5"), "{error}");
    toy.assert_nothing_in_place();
    assert!(
        !toy.partial().exists(),
        "a wrong archive must not be taken up again"
    );
}

#[test]
fn offline_errors_state_what_to_do() {
    let toy = Toy::new();
    let server = toy.server(|_, response| response);
    let url = server.url("/toy-binary.tar.gz");
    drop(server); // no server listens any more
    let error = toy.run(&Origin::Url(url.clone())).unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("cannot download {url}")),
        "{error}"
    );
    let command = "cargo xtask fetch-data --dataset toy --from PATH/TO/toy-binary.tar.gz";
    assert!(error.contains(command), "{error}");
}

#[test]
fn killed_downloads_are_resumed_by_the_next_run() {
    let toy = Toy::new();
    let server = toy.server(|number, response| match number {
        0 => response.stall_after(120_000),
        _ => response,
    });
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "run_in_a_child_process", "--ignored"])
        .env("TOY_URL", server.url("/toy-binary.tar.gz"))
        .env("TOY_DATA", toy.data())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while fs::metadata(toy.partial()).map_or(0, |partial| partial.len()) < 120_000 {
        assert!(
            child.try_wait().unwrap().is_none(),
            "the child ended by itself"
        );
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();
    assert!(!toy.target().exists());

    assert_eq!(toy.fetch(&server).unwrap(), Outcome::Installed);
    toy.assert_installed();
    assert_eq!(ranges(&server), [None, Some("bytes=120000-".to_owned())]);
}

/// The child process of the test above.
#[test]
#[ignore = "only run by another test, in a process of its own"]
fn run_in_a_child_process() {
    let (Ok(url), Some(data)) = (std::env::var("TOY_URL"), std::env::var_os("TOY_DATA")) else {
        return;
    };
    let toy = Toy::new();
    let fetch = Fetch {
        spec: &toy.spec,
        data_dir: Path::new(&data),
        http: HttpOptions::default(),
        progress: &Silent,
    };
    fetch.run(&Origin::Url(url)).unwrap();
}

#[test]
fn concurrent_runs_download_once() {
    let toy = Toy::new();
    let server = toy.server(|_, response| response);
    let outcomes = thread::scope(|scope| {
        [0, 1]
            .map(|_| scope.spawn(|| toy.fetch(&server).unwrap()))
            .map(|run| run.join().unwrap())
    });
    assert!(outcomes.contains(&Outcome::Installed), "{outcomes:?}");
    toy.assert_installed();
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn leftovers_of_a_killed_run_are_removed() {
    let toy = Toy::new();
    let unpacked = toy.data().join(".partial/unpacked/toy-binary");
    fs::create_dir_all(&unpacked).unwrap();
    fs::write(unpacked.join("train.bin"), "half").unwrap();
    toy.fetch(&toy.server(|_, response| response)).unwrap();
    toy.assert_installed();
}

#[test]
fn invalid_installed_files_are_replaced_by_valid_ones() {
    let toy = Toy::new();
    fs::create_dir_all(toy.target()).unwrap();
    fs::write(toy.target().join("train.bin"), "damaged").unwrap();
    let broken = toy.server(|_, _| Response::new(404, ""));
    assert!(toy.fetch(&broken).is_err());
    assert_eq!(
        fs::read(toy.target().join("train.bin")).unwrap(),
        b"damaged"
    );
    assert_eq!(
        toy.fetch(&toy.server(|_, response| response)).unwrap(),
        Outcome::Installed
    );
    toy.assert_installed();
}

#[test]
fn every_kind_of_local_copy_is_accepted() {
    let toy = Toy::new();
    let source = toy.dir.path().join("copy");
    let unpacked = source.join("toy-binary");
    fs::create_dir_all(&unpacked).unwrap();
    fs::write(unpacked.join("train.bin"), noise(300_000)).unwrap();
    fs::write(unpacked.join("names.txt"), "cat\ndog\n").unwrap();
    let archive = toy.dir.path().join("toy-binary.tar.gz");
    fs::write(&archive, &toy.archive).unwrap();
    for from in [&source, &unpacked, &archive, &toy.dir.path().to_owned()] {
        let origin = Origin::from_argument(from.to_str().unwrap(), &toy.spec).unwrap();
        assert_eq!(
            toy.run(&origin).unwrap(),
            Outcome::Installed,
            "{}",
            from.display()
        );
        toy.assert_installed();
        fs::remove_dir_all(toy.target()).unwrap();
    }

    fs::write(unpacked.join("train.bin"), noise(299_999)).unwrap();
    let error = toy.run(&Origin::Directory(source)).unwrap_err().to_string();
    assert!(
        error.ends_with("train.bin: expected 300000 bytes, found 299999 bytes"),
        "{error}"
    );
    toy.assert_nothing_in_place();
}

#[test]
fn invalid_sources_are_rejected() {
    let toy = Toy::new();
    let error = Origin::from_argument("no/such/place", &toy.spec)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("--from no/such/place: expected a directory with toy-binary"),
        "{error}"
    );
    let empty = toy.dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert!(matches!(
        toy.run(&Origin::Directory(empty)),
        Err(XtaskError::NoSource { .. })
    ));
}

#[test]
fn malicious_archives_are_rejected() {
    use tar::EntryType::{Link, Regular, Symlink};

    let escapes: [(&str, tar::EntryType, &[u8]); 6] = [
        ("../outside.txt", Regular, b"x"),
        ("toy-binary/../../outside.txt", Regular, b"x"),
        ("/outside.txt", Regular, b"x"),
        ("toy-binary/train.bin", Symlink, b""),
        ("toy-binary/train.bin", Link, b""),
        ("toy-binary/huge.bin", Regular, &vec![0; 18 << 20]),
    ];
    for (name, kind, bytes) in escapes {
        let mut toy = Toy::new();
        // This data set has checksums of its archive only, and they match.
        let archive = tar_gz(|tar| add(tar, kind, name, bytes));
        toy.spec.archive_size = archive.len() as u64;
        toy.spec.archive_md5 = hex(&Md5::digest(&archive));
        toy.archive = archive;
        let error = toy.fetch(&toy.server(|_, response| response)).unwrap_err();
        assert!(
            matches!(error, XtaskError::UnsafeArchive { .. }),
            "{name}: {error}"
        );
        toy.assert_nothing_in_place();
        assert!(!toy.dir.path().join("outside.txt").exists());
        assert!(!toy.data().join("outside.txt").exists());
    }
}

#[test]
fn archives_with_unbounded_headers_are_rejected() {
    use tar::EntryType::{GNULongLink, GNULongName, XHeader};

    let toy = Toy::new();
    let path = toy.dir.path().join("bomb.tar.gz");
    for kind in [GNULongLink, GNULongName, XHeader] {
        // 1.5 times the limit, compressed to some kilobytes.
        let bomb = tar_gz(|tar| add(tar, kind, "././@LongLink", &vec![b'a'; 3 << 19]));
        fs::write(&path, bomb).unwrap();
        let error = toy.run(&Origin::Archive(path.clone())).unwrap_err();
        let error = error.to_string();
        assert!(
            error.ends_with("found headers of more than 1 MiB before one entry"),
            "{kind:?}: {error}"
        );
        toy.assert_nothing_in_place();
    }
}

#[test]
fn damaged_and_incomplete_archives_are_rejected() {
    let toy = Toy::new();
    let path = toy.dir.path().join("damaged.tar.gz");
    let incomplete = tar_gz(|tar| {
        add(
            tar,
            tar::EntryType::Regular,
            "toy-binary/names.txt",
            b"cat\ndog\n",
        );
    });
    for bytes in [&toy.archive[..200_000], b"<html></html>", b"", &incomplete] {
        fs::write(&path, bytes).unwrap();
        let error = toy.run(&Origin::Archive(path.clone())).unwrap_err();
        assert!(matches!(error, XtaskError::WrongContent { .. }), "{error}");
        toy.assert_nothing_in_place();
    }
}
