//! Download of an archive over HTTP, with resume and retries.
//!
//! The bytes go to a partial file, next to the validator (entity tag or date) that the server sent
//! with them. A later request asks for the rest by `Range`, with `If-Range` and that validator, so
//! that a file that has changed on the server is sent whole instead of as a wrong tail. A download
//! is accepted only if its size and MD5 are correct.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use ureq::http::{HeaderMap, Response, StatusCode};
use ureq::{Agent, Body};

use crate::error::{Result, XtaskError};
use crate::progress::Progress;
use crate::spec::DatasetSpec;
use crate::verify::verify_archive;

/// The maximum pause for a server's `Retry-After`.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// The minimum number of bytes of a successful attempt; otherwise, a server could keep a download
/// from ever ending.
const PROGRESS: u64 = 1 << 10;

/// The retries and timeouts of a download.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// The maximum number of consecutive failures.
    pub attempts: u32,
    /// The pause after the first failure; it doubles with each.
    pub first_pause: Duration,
    /// The read timeout.
    pub read_timeout: Duration,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            attempts: 5,
            first_pause: Duration::from_secs(1),
            read_timeout: Duration::from_secs(30),
        }
    }
}

/// The failure of one request.
enum Failure {
    /// A transient failure; retried after this pause, if the server sent one.
    Passing(String, Option<Duration>),
    /// A permanent failure.
    Final(XtaskError),
}

impl Failure {
    fn passing(finding: &impl ToString) -> Self {
        Self::Passing(finding.to_string(), None)
    }
}

/// The download of an archive.
pub(crate) struct Download<'a> {
    spec: &'a DatasetSpec,
    url: &'a str,
    partial: PathBuf,
    validator: PathBuf,
    agent: Agent,
    options: &'a HttpOptions,
    progress: &'a dyn Progress,
}

impl<'a> Download<'a> {
    /// Creates the download of the archive of `spec` from `url`, with its partial file in
    /// `directory`.
    pub(crate) fn new(
        spec: &'a DatasetSpec,
        url: &'a str,
        directory: &Path,
        options: &'a HttpOptions,
        progress: &'a dyn Progress,
    ) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .accept_encoding("identity") // sizes and ranges refer to the archive itself
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(options.read_timeout))
            .timeout_per_read(Some(options.read_timeout))
            .build()
            .new_agent();
        let name = spec.archive_name();
        Self {
            spec,
            url,
            partial: directory.join(name),
            validator: directory.join(format!("{name}.validator")),
            agent,
            options,
            progress,
        }
    }

    /// Downloads and verifies the archive, and returns its path.
    pub(crate) fn run(&self) -> Result<PathBuf> {
        let size = self.spec.archive_size;
        let mut resumed = self.have()? > 0;
        let mut failures = 0;
        loop {
            let before = self.have()?;
            if before >= size {
                match verify_archive(&self.partial, self.spec) {
                    Ok(()) => return Ok(self.partial.clone()),
                    Err(error) => {
                        self.discard()?;
                        if !resumed {
                            return Err(error);
                        }
                        self.progress.message(&format!("{error}; starting over"));
                        resumed = false;
                        continue;
                    }
                }
            }
            let (finding, pause) = match self.request_rest(before) {
                Ok(()) => continue,
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(finding, pause)) => (finding, pause),
            };
            let after = self.have()?;
            resumed |= after > 0;
            failures = if after >= before + PROGRESS {
                1
            } else {
                failures + 1
            };
            if failures >= self.options.attempts {
                return Err(self.unreachable(finding));
            }
            let pause =
                pause.unwrap_or(self.options.first_pause * 2_u32.saturating_pow(failures - 1));
            self.progress.message(&format!(
                "{finding}; retrying in {pause:.0?}, {after} bytes downloaded"
            ));
            thread::sleep(pause.min(LONGEST_PAUSE));
        }
    }

    /// Removes the partial file and its validator.
    pub(crate) fn discard(&self) -> Result<()> {
        for path in [&self.partial, &self.validator] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(XtaskError::io("remove", path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns the size of the partial file.
    fn have(&self) -> Result<u64> {
        match fs::metadata(&self.partial) {
            Ok(metadata) => Ok(metadata.len()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
            Err(error) => Err(XtaskError::io("read", &self.partial)(error)),
        }
    }

    /// Requests everything from byte `have` on, and writes it.
    fn request_rest(&self, have: u64) -> std::result::Result<(), Failure> {
        let mut request = self.agent.get(self.url);
        if have > 0 {
            request = request.header("Range", format!("bytes={have}-"));
            if let Ok(validator) = fs::read_to_string(&self.validator) {
                request = request.header("If-Range", validator);
            }
        }
        let response = request.call().map_err(|error| Failure::passing(&error))?;
        let start = match response.status() {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT if range_start(response.headers()) == Some(have) => have,
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                self.discard().map_err(Failure::Final)?;
                return Err(Failure::passing(
                    &"the server sent another range of the file",
                ));
            }
            _ => return Err(self.status_error(&response)),
        };
        self.check_length(start, &response)?;
        if start < have {
            self.progress
                .message("the server sends the file from the beginning");
        }
        self.receive(start, response)
    }

    /// Classifies a response without the file.
    fn status_error(&self, response: &Response<Body>) -> Failure {
        let status = response.status();
        let passing =
            [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status);
        if passing || status.is_server_error() {
            let pause =
                header(response.headers(), "retry-after").and_then(|text| text.parse().ok());
            return Failure::Passing(
                format!("the server responded {status}"),
                pause.map(Duration::from_secs),
            );
        }
        Failure::Final(self.unexpected_response(format!("status {status}")))
    }

    /// Checks that the announced body completes the file. Otherwise, it is an error page or another
    /// file.
    fn check_length(
        &self,
        start: u64,
        response: &Response<Body>,
    ) -> std::result::Result<(), Failure> {
        let size = self.spec.archive_size;
        match response.body().content_length() {
            Some(length) if start.saturating_add(length) != size => {
                let kind = header(response.headers(), "content-type").unwrap_or("unknown type");
                let found = format!("{} bytes of {kind}", start.saturating_add(length));
                Err(Failure::Final(self.unexpected_response(found)))
            }
            _ => Ok(()),
        }
    }

    /// Writes the body of `response` to the partial file from byte `start` on.
    fn receive(&self, start: u64, response: Response<Body>) -> std::result::Result<(), Failure> {
        let size = self.spec.archive_size;
        let write_error = |error| Failure::Final(XtaskError::io("write", &self.partial)(error));
        let mut file = self
            .open_at(start, response.headers())
            .map_err(Failure::Final)?;
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 1 << 16];
        let mut done = start;
        let outcome = loop {
            match body.read(&mut buffer) {
                Ok(0) if done < size => {
                    break Err(Failure::passing(&format!(
                        "the connection ended after {done} of {size} bytes"
                    )));
                }
                Ok(0) => break Ok(()),
                Ok(count) if done + count as u64 > size => {
                    self.discard().map_err(Failure::Final)?;
                    return Err(Failure::Final(
                        self.unexpected_response(format!("more than {size} bytes")),
                    ));
                }
                Ok(count) => {
                    file.write_all(&buffer[..count]).map_err(write_error)?;
                    done += count as u64;
                    self.progress.progress(done, size);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    break Err(Failure::passing(&format!(
                        "{error} after {done} of {size} bytes"
                    )));
                }
            }
        };
        file.sync_all().map_err(write_error)?;
        outcome
    }

    /// Opens the partial file at byte `start`. At the start of the file, it also saves the
    /// validator of `headers`.
    fn open_at(&self, start: u64, headers: &HeaderMap) -> Result<File> {
        if start > 0 {
            let file = OpenOptions::new().append(true).open(&self.partial);
            return file.map_err(XtaskError::io("write", &self.partial));
        }
        self.discard()?;
        if let Some(validator) = validator(headers) {
            fs::write(&self.validator, validator)
                .map_err(XtaskError::io("write", &self.validator))?;
        }
        File::create(&self.partial).map_err(XtaskError::io("write", &self.partial))
    }

    fn unexpected_response(&self, found: String) -> XtaskError {
        XtaskError::UnexpectedResponse {
            url: self.url.to_owned(),
            expected: format!(
                "{}, {} bytes",
                self.spec.archive_name(),
                self.spec.archive_size
            ),
            found,
        }
    }

    fn unreachable(&self, finding: String) -> XtaskError {
        XtaskError::Unreachable {
            url: self.url.to_owned(),
            finding,
            dataset: self.spec.name.clone(),
            archive: self.spec.archive_name().to_owned(),
        }
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Returns a validator that `If-Range` accepts: a strong entity tag, or a date.
fn validator(headers: &HeaderMap) -> Option<&str> {
    let strong = header(headers, "etag").filter(|tag| !tag.starts_with("W/"));
    strong.or_else(|| header(headers, "last-modified"))
}

/// Parses the first byte of `Content-Range: bytes 100-199/200`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let range = header(headers, "content-range")?.strip_prefix("bytes ")?;
    range.split_once('-')?.0.trim().parse().ok()
}
