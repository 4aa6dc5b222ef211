//! A Hub of models on loopback, with its own storage: repositories with branches and commits,
//! tokens, and the real Hub's answers to the requests of `hf-hub`.
//!
//! A commit is an immutable list of files; a branch names a commit, and moves once a commit is
//! complete. Files ending in `.safetensors` or `.bin` are large files, which the listing gives a
//! SHA-256; others have git's SHA-1. Large files are stored in a [`ChunkStore`] if the server was
//! started with one. Otherwise they are sent within the commit, as `hf-hub` does for servers
//! without chunks.

use std::collections::BTreeMap;
use std::ops::Index;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::cas::ChunkStore;
use crate::digest::hex;
use crate::http::{Request, Response, Server};

/// The files of a commit, by path.
pub type Files = BTreeMap<String, Vec<u8>>;

/// The token with write access.
pub const TOKEN: &str = "hf_NobodyMayReadThisNorThat";

/// A repository.
#[derive(Clone, Debug, Default)]
pub struct Repository {
    /// Whether the repository is visible only with the token.
    pub private: bool,
    /// The commit of each branch.
    pub branches: BTreeMap<String, String>,
    /// The files of each commit.
    pub commits: BTreeMap<String, Files>,
}

impl Repository {
    /// Commits files on top of those of a branch, and returns the commit.
    pub fn commit(&mut self, branch: &str, changes: Files) -> String {
        let mut files = self.files(branch).cloned().unwrap_or_default();
        files.extend(changes);
        let mut hash = Sha256::new();
        hash.update(self.commits.len().to_le_bytes());
        for (path, content) in &files {
            hash.update(path);
            hash.update(content);
        }
        let id = hex(&hash.finalize())[..40].to_owned();
        self.commits.insert(id.clone(), files);
        self.branches.insert(branch.to_owned(), id.clone());
        id
    }

    /// Resolves a branch or commit name to a commit.
    fn resolve(&self, revision: &str) -> Option<String> {
        let of_branch = self.branches.get(revision).cloned();
        let own = self.commits.contains_key(revision);
        of_branch.or_else(|| own.then(|| revision.to_owned()))
    }

    /// Returns the files of a branch or commit.
    pub fn files(&self, revision: &str) -> Option<&Files> {
        self.commits.get(&self.resolve(revision)?)
    }
}

/// The server's storage.
#[derive(Default)]
pub struct Storage {
    /// Repositories by `USER/NAME`.
    pub repositories: BTreeMap<String, Repository>,
    /// The store of large files, if they come in chunks.
    pub chunks: Option<ChunkStore>,
}

impl Index<&str> for Storage {
    type Output = Repository;

    fn index(&self, id: &str) -> &Repository {
        &self.repositories[id]
    }
}

type Alter = dyn FnMut(&Request, Response) -> Response + Send;

/// A server that runs until it is dropped.
pub struct HubServer {
    server: Server,
    storage: Arc<Mutex<Storage>>,
    alter: Arc<Mutex<Box<Alter>>>,
    /// Called before a request is handled: an answer from here replaces it.
    refuse: Arc<Mutex<Box<Refuse>>>,
}

type Refuse = dyn FnMut(&Request) -> Option<Response> + Send;

impl HubServer {
    /// Starts a Hub without repositories.
    ///
    /// # Panics
    /// When the loopback interface has no free port.
    #[must_use]
    pub fn start() -> Self {
        Self::with(Storage::default())
    }

    /// Starts a Hub without repositories that stores large files in chunks.
    ///
    /// # Panics
    /// When the loopback interface has no free port, or threads cannot be started.
    #[must_use]
    pub fn with_chunks() -> Self {
        Self::with(Storage {
            chunks: Some(ChunkStore::new()),
            ..Storage::default()
        })
    }

    fn with(storage: Storage) -> Self {
        let storage = Arc::new(Mutex::new(storage));
        let honest: Box<Alter> = Box::new(|_, response| response);
        let alter = Arc::new(Mutex::new(honest));
        let willing: Box<Refuse> = Box::new(|_| None);
        let refuse = Arc::new(Mutex::new(willing));
        let server = Server::start({
            let (storage, alter) = (Arc::clone(&storage), Arc::clone(&alter));
            let refuse = Arc::clone(&refuse);
            move |request| {
                if let Some(refusal) = locked(&refuse)(request) {
                    return refusal;
                }
                let response = answer(&mut locked(&storage), request);
                locked(&alter)(request, response)
            }
        });
        Self {
            server,
            storage,
            alter,
            refuse,
        }
    }

    /// Returns its URL.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url("")
    }

    /// Returns its storage, to read or change.
    pub fn storage(&self) -> MutexGuard<'_, Storage> {
        locked(&self.storage)
    }

    /// Modifies all further answers after their requests have been handled.
    pub fn alter(&self, alter: impl FnMut(&Request, Response) -> Response + Send + 'static) {
        *locked(&self.alter) = Box::new(alter);
    }

    /// Answers some further requests itself, without handling them.
    pub fn refuse(&self, refuse: impl FnMut(&Request) -> Option<Response> + Send + 'static) {
        *locked(&self.refuse) = Box::new(refuse);
    }

    /// Returns all requests so far, in order.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.server.requests()
    }
}

fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(storage: &mut Storage, request: &Request) -> Response {
    let address = format!("http://{}", request.header("host").unwrap_or_default());
    if let Some(chunks) = &mut storage.chunks
        && let Some(response) = chunks.answer(request, &address)
    {
        return response;
    }
    let known = request.header("authorization") == Some(&format!("Bearer {TOKEN}"));
    let reply = match (request.method.as_str(), known) {
        ("POST", true) => post(storage, request),
        // A server may quote the request.
        ("POST", false) => Err((401, "Invalid credentials in Authorization header")),
        _ => get(storage, request, known, &address),
    };
    reply.unwrap_or_else(|(status, error)| {
        let sent = request.header("authorization").unwrap_or("nothing");
        let body = json!({"error": format!("{error} (sent: {sent})")});
        Response::new(status, body.to_string()).with("Content-Type", "application/json")
    })
}

type Reply = Result<Response, (u16, &'static str)>;

const NOT_FOUND: (u16, &str) = (404, "Repository not found");
const NO_REVISION: (u16, &str) = (404, "Invalid rev id");
const NOT_JSON: (u16, &str) = (400, "not JSON");

fn as_json(body: &Value) -> Response {
    Response::new(200, body.to_string()).with("Content-Type", "application/json")
}

fn post(storage: &mut Storage, request: &Request) -> Reply {
    if request.path == "/api/repos/create" {
        return create(storage, &request.body);
    }
    if let Some(id) = request.path.strip_suffix(".git/info/lfs/objects/batch") {
        let id = id.trim_start_matches('/');
        let _ = storage.repositories.get(id).ok_or(NOT_FOUND)?;
        let transfer = if storage.chunks.is_some() {
            "xet"
        } else {
            "basic"
        };
        return Ok(as_json(&json!({"transfer": transfer, "objects": []})));
    }
    let (id, action, rest) = api_path(&request.path).ok_or(NOT_FOUND)?;
    let chunks = storage.chunks.as_ref();
    let repository = storage.repositories.get_mut(&id).ok_or(NOT_FOUND)?;
    let revision = rest.replace("%2F", "/");
    match action {
        "branch" => {
            if repository.branches.contains_key(&revision) {
                return Err((409, "Reference already exists"));
            }
            let start = repository.resolve("main").ok_or(NO_REVISION)?;
            repository.branches.insert(revision, start);
            Ok(as_json(&json!({})))
        }
        "preupload" => {
            repository.resolve(&revision).ok_or(NO_REVISION)?;
            let asked: Value = serde_json::from_slice(&request.body).map_err(|_| NOT_JSON)?;
            let files = asked["files"].as_array().ok_or(NOT_JSON)?;
            let modes = files.iter().map(|file| {
                let path = file["path"].as_str().unwrap_or_default();
                let mode = if is_large(path) { "lfs" } else { "regular" };
                json!({"path": path, "uploadMode": mode, "shouldIgnore": false})
            });
            Ok(as_json(&json!({"files": modes.collect::<Vec<_>>()})))
        }
        "commit" => commit(repository, chunks, &revision, &request.body),
        _ => Err(NOT_FOUND),
    }
}

fn create(storage: &mut Storage, body: &[u8]) -> Reply {
    let asked: Value = serde_json::from_slice(body).map_err(|_| NOT_JSON)?;
    let text = |key: &str| asked[key].as_str().unwrap_or_default();
    let id = format!("{}/{}", text("organization"), text("name"));
    if storage.repositories.contains_key(&id) {
        return Err((409, "You already created this model repo"));
    }
    let mut repository = Repository {
        private: asked["private"] == true,
        ..Repository::default()
    };
    let attributes = "*.safetensors filter=lfs diff=lfs merge=lfs -text\n";
    repository.commit(
        "main",
        Files::from([(".gitattributes".into(), attributes.into())]),
    );
    let url = format!("http://loopback/{id}");
    storage.repositories.insert(id, repository);
    Ok(as_json(&json!({"url": url})))
}

/// Creates a commit. The request body is read completely before anything changes.
fn commit(
    repository: &mut Repository,
    chunks: Option<&ChunkStore>,
    branch: &str,
    body: &[u8],
) -> Reply {
    if !repository.branches.contains_key(branch) {
        return Err(NO_REVISION);
    }
    let mut changes = Files::new();
    for line in body.split(|&byte| byte == b'\n') {
        if line.is_empty() {
            continue;
        }
        let line: Value = serde_json::from_slice(line).map_err(|_| NOT_JSON)?;
        let value = &line["value"];
        match line["key"].as_str() {
            Some("header") => {}
            Some("file") => {
                let content = value["content"].as_str().ok_or(NOT_JSON)?;
                let content = STANDARD.decode(content).map_err(|_| NOT_JSON)?;
                let path = value["path"].as_str().ok_or(NOT_JSON)?;
                changes.insert(path.to_owned(), content);
            }
            Some("lfsFile") => {
                let (path, oid) = (value["path"].as_str(), value["oid"].as_str());
                let (path, oid) = (path.ok_or(NOT_JSON)?, oid.ok_or(NOT_JSON)?);
                let content = chunks.and_then(|chunks| chunks.content_of(oid));
                let content = content.ok_or((400, "a large file that was not sent"))?;
                changes.insert(path.to_owned(), content);
            }
            _ => return Err((400, "unknown operation")),
        }
    }
    let id = repository.commit(branch, changes);
    let url = format!("http://loopback/commit/{id}");
    Ok(as_json(
        &json!({"commitOid": id, "commitUrl": url, "success": true}),
    ))
}

fn get(storage: &Storage, request: &Request, known: bool, address: &str) -> Reply {
    if let Some((id, action, rest)) = api_path(&request.path) {
        let repository = visible(storage, &id, known)?;
        let revision = if action.is_empty() { "main" } else { rest };
        let commit = repository.resolve(&revision.replace("%2F", "/"));
        let commit = commit.ok_or(NO_REVISION)?;
        return match action {
            "" | "revision" => Ok(as_json(
                &json!({"id": id, "sha": commit, "private": repository.private}),
            )),
            "tree" => {
                let files = repository.commits[&commit].iter();
                let entries: Vec<Value> = files.map(entry).collect();
                Ok(as_json(&json!(entries)))
            }
            // Chunks are stored elsewhere, with their own token that expires.
            "xet-write-token" | "xet-read-token" => Ok(as_json(
                &json!({"accessToken": "chunks", "exp": u32::MAX, "casUrl": address}),
            )),
            _ => Err(NOT_FOUND),
        };
    }
    let (id, rest) = request.path.split_once("/resolve/").ok_or(NOT_FOUND)?;
    let repository = visible(storage, id.trim_start_matches('/'), known)?;
    let (revision, path) = rest.split_once('/').ok_or(NOT_FOUND)?;
    let commit = repository.resolve(&revision.replace("%2F", "/"));
    let commit = commit.ok_or(NO_REVISION)?;
    let content = repository.commits[&commit].get(path);
    let content = content.ok_or((404, "Entry not found"))?;
    let tag = if is_large(path) {
        sha256(content)
    } else {
        git_blob(content)
    };
    let response = Response::new(200, content.clone())
        .with("ETag", &format!("\"{tag}\""))
        .with("X-Repo-Commit", &commit);
    if !is_large(path) {
        return Ok(response);
    }
    let response = response
        .with("X-Linked-ETag", &format!("\"{tag}\""))
        .with("X-Linked-Size", &content.len().to_string());
    let chunks = storage.chunks.as_ref();
    Ok(match chunks.and_then(|chunks| chunks.name_of(&tag)) {
        Some(name) => response.with("X-Xet-Hash", name),
        None => response,
    })
}

/// Returns a visible repository. Like the real Hub, it does not reveal private repositories to
/// others.
fn visible<'a>(
    storage: &'a Storage,
    id: &str,
    known: bool,
) -> Result<&'a Repository, (u16, &'static str)> {
    let repository = storage.repositories.get(id);
    let repository = repository.filter(|repository| known || !repository.private);
    repository.ok_or((401, "Repository not found"))
}

/// Parses `/api/models/USER/NAME[/ACTION/REST]` as (`USER/NAME`, `ACTION`, `REST`).
fn api_path(path: &str) -> Option<(String, &str, &str)> {
    let mut parts = path.strip_prefix("/api/models/")?.splitn(4, '/');
    let (user, name) = (parts.next()?, parts.next()?);
    let id = format!("{user}/{name}");
    Some((
        id,
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    ))
}

fn entry((path, content): (&String, &Vec<u8>)) -> Value {
    let size = content.len();
    if !is_large(path) {
        return json!({"type": "file", "path": path, "size": size, "oid": git_blob(content)});
    }
    let sum = sha256(content);
    large_entry(path, size, &sum)
}

/// Returns the listing entry of a large file: git itself stores a pointer in its place.
#[must_use]
pub fn large_entry(path: &str, size: usize, sha256: &str) -> Value {
    let pointer =
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n");
    let lfs = json!({"oid": sha256, "size": size, "pointerSize": pointer.len()});
    let oid = git_blob(pointer.as_bytes());
    json!({"type": "file", "path": path, "size": size, "oid": oid, "lfs": lfs})
}

fn is_large(path: &str) -> bool {
    let extensions = [".safetensors", ".bin"];
    extensions.iter().any(|extension| path.ends_with(extension))
}

/// Returns the SHA-256 of these bytes in hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Returns the output of `git hash-object`.
#[must_use]
pub fn git_blob(bytes: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", bytes.len()));
    hash.update(bytes);
    hex(&hash.finalize())
}
