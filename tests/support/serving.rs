//! `perceiver serve` and `perceiver watch` as processes of their own, and a plain HTTP client.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::program::Sandbox;

/// The longest wait for an answer: a test that waits longer has found a server that hangs.
const HANGS: Duration = Duration::from_mins(2);

/// A running server, which is killed when it is dropped.
pub struct Serving {
    child: Child,
    /// Kept open, so that the server can write to it.
    _out: BufReader<ChildStdout>,
    log: std::path::PathBuf,
    /// The address that it listens on.
    pub address: SocketAddr,
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// The status; 0 if the connection was closed without an answer.
    pub status: u16,
    /// The headers, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Reply {
    /// Returns the value of a header, whose name is in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Parses the body.
    ///
    /// # Panics
    /// When it is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Returns the code of an error.
    ///
    /// # Panics
    /// When the body is no error.
    #[must_use]
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap().to_owned()
    }

    /// Reads an answer; `None` at the end of the connection.
    ///
    /// # Panics
    /// When the server does not answer, or breaks off within an answer.
    pub fn read(stream: &mut impl BufRead) -> Option<Self> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            match stream.read_line(&mut line) {
                Ok(0) if lines.is_empty() => return None,
                Ok(0) => panic!("broken off after {lines:?}"),
                Err(error)
                    if error.kind() == std::io::ErrorKind::ConnectionReset && lines.is_empty() =>
                {
                    return None;
                }
                Err(error) => panic!("no answer: {error}"),
                Ok(_) => {}
            }
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let (first, headers) = lines.split_first().unwrap();
        let headers = headers.iter().filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(key, value)| (key.to_lowercase(), value.trim().to_owned()));
        let mut reply = Self {
            status: first.split(' ').nth(1).unwrap().parse().unwrap(),
            headers: headers.collect(),
            body: Vec::new(),
        };
        if reply.status == 100 {
            return Self::read(stream);
        }
        let length = reply
            .header("content-length")
            .map_or(0, |length| length.parse().unwrap());
        reply.body = vec![0; length];
        stream.read_exact(&mut reply.body).unwrap();
        Some(reply)
    }
}

/// Returns a request with a body.
#[must_use]
pub fn post(target: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

/// Returns a form with these files, for the boundary `B`.
#[must_use]
pub fn form(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, content) in files {
        let head = format!(
            "--B\r\nContent-Disposition: form-data; name=\"image\"; filename=\"{name}\"\r\nContent-Type: \
             application/octet-stream\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--B--\r\n");
    body
}

/// The content type of [`form`].
pub const FORM: &str = "multipart/form-data; boundary=B";

impl Serving {
    /// Starts a server of a checkpoint on a free port, with flags.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(sandbox: &Sandbox, flags: &str) -> Self {
        Self::of(sandbox, &format!("serve --address 127.0.0.1:0 {flags}"))
    }

    /// Starts a command that prints the address of its server.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn of(sandbox: &Sandbox, arguments: &str) -> Self {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let log = sandbox.path(format!("serve-{number}.log"));
        let mut command = sandbox.command(arguments);
        let child = command
            .stderr(Stdio::from(File::create(&log).unwrap()))
            .spawn();
        let mut child = child.unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let address = line
            .trim()
            .strip_prefix("http://")
            .and_then(|address| address.parse().ok());
        let address = address.unwrap_or_else(|| {
            let _ = child.wait();
            panic!("{line}{}", fs::read_to_string(&log).unwrap())
        });
        Self {
            child,
            _out: out,
            log,
            address,
        }
    }

    /// Connects to the server.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn connect(&self) -> BufReader<TcpStream> {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(HANGS)).unwrap();
        stream.set_write_timeout(Some(HANGS)).unwrap();
        stream.set_nodelay(true).unwrap();
        BufReader::new(stream)
    }

    /// Sends a request on a connection of its own, and returns the first answer; one of status 0 if
    /// there is none.
    #[must_use]
    pub fn send(&self, request: &[u8]) -> Reply {
        let mut stream = self.connect();
        let _ = stream.get_mut().write_all(request); // the server may have answered and closed already
        Reply::read(&mut stream).unwrap_or_default()
    }

    /// Gets a path.
    #[must_use]
    pub fn get(&self, target: &str) -> Reply {
        self.send(
            format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .as_bytes(),
        )
    }

    /// Sends an image as it is.
    #[must_use]
    pub fn predict(&self, target: &str, image: &[u8]) -> Reply {
        self.send(&post(target, "application/octet-stream", image))
    }

    /// Whether the server still runs.
    ///
    /// # Panics
    /// When the system does not say.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Returns what the server has logged.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Returns the server's peak memory in bytes, where the system tells it.
    #[must_use]
    pub fn peak_memory(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
        let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(1024 * kib)
    }

    /// Sends SIGTERM.
    ///
    /// # Panics
    /// When it cannot be sent.
    #[cfg(unix)]
    pub fn terminate(&self) {
        let sent = std::process::Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        assert!(sent.unwrap().success());
    }

    /// Waits for the end of the server, and returns its exit code.
    ///
    /// # Panics
    /// When it does not end.
    #[must_use]
    pub fn ended(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
