//! A small HTTP server on the loopback interface, for tests of downloads. Each test defines its
//! answers; it can also break off, stall, ignore ranges and change its files.
//!
//! ```
//! use perceiver_tests::http::{Response, Server};
//!
//! let server = Server::start(|request| Response::file(request, b"0123456789", "\"v1\""));
//! let url = server.url("/digits");
//! # assert!(url.starts_with("http://127.0.0.1:") && url.ends_with("/digits"));
//! ```

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// An HTTP request.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, `HEAD` or `POST`.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The path and the query.
    pub target: String,
    /// The body.
    pub body: Vec<u8>,
    headers: Vec<(String, String)>,
}

impl Request {
    /// Returns the value of a header, if it was sent; `name` must be in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Reads a request with its body; none at the end of the connection.
    pub fn read(stream: &TcpStream) -> Option<Self> {
        let mut reader = BufReader::new(stream);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let (first, headers) = lines.split_first()?;
        let mut words = first.split(' ');
        let (method, target) = (words.next()?.to_owned(), words.next()?);
        let headers = headers.iter().filter_map(|line| {
            let (key, value) = line.split_once(':')?;
            Some((key.to_lowercase(), value.trim().to_owned()))
        });
        let mut request = Self {
            method,
            path: target.split('?').next()?.to_owned(),
            target: target.to_owned(),
            body: Vec::new(),
            headers: headers.collect(),
        };
        let length = request.header("content-length").unwrap_or("0").parse();
        request.body = vec![0; length.ok()?];
        reader.read_exact(&mut request.body).ok()?;
        Some(request)
    }
}

/// An HTTP response.
#[derive(Clone, Debug)]
pub struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    cut_after: Option<usize>,
    drop_at: Option<usize>,
    stall_after: Option<usize>,
}

impl Response {
    /// Creates a response with a status and a body.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            cut_after: None,
            drop_at: None,
            stall_after: None,
        }
    }

    /// Creates a response with the file `body`: complete or, if the request's `Range` and
    /// `If-Range` allow it, from the requested byte on.
    pub fn file(request: &Request, body: &[u8], etag: &str) -> Self {
        let range = request.header("range").and_then(|range| {
            let start = range.strip_prefix("bytes=")?.strip_suffix('-')?;
            start.parse::<usize>().ok()
        });
        let same_file = request.header("if-range").is_none_or(|tag| tag == etag);
        let response = match range.filter(|_| same_file) {
            None => Self::new(200, body),
            Some(start) if start < body.len() => Self::new(206, &body[start..]).with(
                "Content-Range",
                &format!("bytes {start}-{}/{}", body.len() - 1, body.len()),
            ),
            Some(_) => Self::new(416, "").with("Content-Range", &format!("bytes */{}", body.len())),
        };
        response.with("ETag", etag)
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Closes the connection after `count` bytes of the body.
    #[must_use]
    pub fn cut_after(mut self, count: usize) -> Self {
        self.cut_after = Some(count);
        self
    }

    /// Closes the connection after `count` bytes of the response, including status line and
    /// headers.
    #[must_use]
    pub fn drop_at(mut self, count: usize) -> Self {
        self.drop_at = Some(count);
        self
    }

    /// Returns the body.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Stalls after `count` bytes of the body until the server stops.
    #[must_use]
    pub fn stall_after(mut self, count: usize) -> Self {
        self.stall_after = Some(count);
        self
    }

    fn write(
        &self,
        stream: &mut TcpStream,
        method: &str,
        stop: &AtomicBool,
    ) -> std::io::Result<()> {
        let mut head = format!(
            "HTTP/1.1 {} Answer\r\nContent-Length: {}\r\nConnection: close\r\n",
            self.status,
            self.body.len()
        );
        for (name, value) in &self.headers {
            head.extend([name.as_str(), ": ", value.as_str(), "\r\n"]);
        }
        head.push_str("\r\n");
        if let Some(count) = self.drop_at {
            let body: &[u8] = if method == "HEAD" { &[] } else { &self.body };
            let whole = [head.as_bytes(), body].concat();
            stream.write_all(&whole[..count.min(whole.len())])?;
            return stream.shutdown(Shutdown::Both);
        }
        stream.write_all(head.as_bytes())?;
        if method != "HEAD" {
            let count = self
                .cut_after
                .or(self.stall_after)
                .unwrap_or(usize::MAX)
                .min(self.body.len());
            stream.write_all(&self.body[..count])?;
            stream.flush()?;
        }
        while self.stall_after.is_some() && !stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(5));
        }
        stream.shutdown(Shutdown::Write)
    }
}

/// A server that runs until it is dropped.
pub struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a server that answers each request with the result of `answer`, with one thread per
    /// connection.
    ///
    /// # Panics
    /// When the loopback interface has no free port.
    pub fn start(answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port on loopback");
        let address = listener
            .local_addr()
            .expect("the address of a bound socket");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let answer = Arc::new(answer);
        let thread = thread::spawn({
            let (requests, stop) = (Arc::clone(&requests), Arc::clone(&stop));
            move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let (answer, requests, stop) = (
                        Arc::clone(&answer),
                        Arc::clone(&requests),
                        Arc::clone(&stop),
                    );
                    thread::spawn(move || serve(stream, &*answer, &requests, &stop));
                }
            }
        });
        Self {
            address,
            requests,
            stop,
            thread: Some(thread),
        }
    }

    /// Returns the URL of `path`, which begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Returns all requests so far, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn serve(
    mut stream: TcpStream,
    answer: &impl Fn(&Request) -> Response,
    requests: &Mutex<Vec<Request>>,
    stop: &AtomicBool,
) {
    let Some(request) = Request::read(&stream) else {
        return;
    };
    requests
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(request.clone());
    // Tests include clients that disconnect.
    let _ = answer(&request).write(&mut stream, &request.method, stop);
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread that waits for connections.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
