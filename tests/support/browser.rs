//! Opens pages in a real browser, if one is installed, and records its console and its requests.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use perceiver_data::Image;

/// Hosts that the browser contacts on its own: services of its vendor.
const ITS_MAKERS: [&str; 5] = [
    "google.com",
    "googleapis.com",
    "gvt1.com",
    "gstatic.com",
    "google",
];

/// A headless browser whose only network access is a proxy that rejects every request.
pub struct Browser {
    program: PathBuf,
    directory: tempfile::TempDir,
    proxy: u16,
    asked: Receiver<String>,
}

/// The result of opening a page.
pub struct Opened {
    /// The elements of the page when it was opened, as text.
    pub dom: String,
    /// The browser's log, including the console.
    pub log: String,
    /// The network requests for the page, one line each.
    pub asked: Vec<String>,
}

impl Browser {
    /// Finds the browser of `$CHROME`, or one with a usual name. Prints a notice if there is none.
    ///
    /// # Panics
    /// When no directory or socket can be opened.
    #[must_use]
    pub fn find() -> Option<Self> {
        let named = env::var_os("CHROME").map(PathBuf::from);
        let path = env::var_os("PATH").unwrap_or_default();
        let usual = env::split_paths(&path).flat_map(|directory| {
            ["chromium", "google-chrome", "chromium-browser"].map(|name| directory.join(name))
        });
        let Some(program) = named.into_iter().chain(usual).find(|path| path.is_file()) else {
            eprintln!("skipped: no chromium or google-chrome here, and no $CHROME");
            return None;
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let proxy = listener.local_addr().unwrap().port();
        let (sender, asked) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let sender = sender.clone();
                // Browsers open connections in advance, and may send no request on them.
                thread::spawn(move || {
                    let mut line = String::new();
                    let _ = BufReader::new(&stream).read_line(&mut line);
                    let line = line.trim().to_string();
                    if !line.is_empty() {
                        let _ = sender.send(line); // before the browser can continue and exit
                    }
                    refuse(&stream);
                });
            }
        });
        let browser = Self {
            program,
            directory: tempfile::tempdir().unwrap(),
            proxy,
            asked,
        };
        browser.opens_pages().then_some(browser)
    }

    /// Whether the browser can open pages of this directory. Prints a notice if it cannot, as with
    /// a sandboxed browser.
    fn opens_pages(&self) -> bool {
        let page = self.directory.path().join("empty.html");
        fs::write(&page, "<!doctype html><p>opened</p>").unwrap();
        let output = self.command(&page, 800).arg("--dump-dom").output();
        let opens = output.as_ref().is_ok_and(|output| {
            output.status.success() && String::from_utf8_lossy(&output.stdout).contains("opened")
        });
        if !opens {
            let program = self.program.display();
            eprintln!("skipped: {program} does not open pages here: {output:?}");
        }
        opens
    }

    /// Returns a directory for pages of a test.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn command(&self, page: &Path, width: u32) -> Command {
        let mut command = self.command_of(&format!("file://{}", page.display()), width);
        command.arg("--proxy-bypass-list=<-loopback>");
        command
    }

    /// Returns the command that opens an address, of which servers of this machine are reached without
    /// the proxy.
    fn command_of(&self, address: &str, width: u32) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args([
                "--headless",
                "--no-sandbox", // Chromium has no sandbox as root
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--hide-scrollbars",
                "--enable-logging=stderr",
                "--v=0",
            ])
            .arg(format!("--window-size={width},1000"))
            .arg(format!("--proxy-server=127.0.0.1:{}", self.proxy))
            .arg(format!(
                "--user-data-dir={}",
                self.directory.path().display()
            ))
            .stdin(Stdio::null());
        command.arg(address);
        command
    }

    /// Opens a page of a file.
    ///
    /// # Panics
    /// When the browser fails.
    #[must_use]
    pub fn open(&self, page: &Path, width: u32) -> Opened {
        self.opened(self.command(page, width))
    }

    /// Opens a page of a server of this machine, and lets `milliseconds` pass on it, during which the
    /// clock of the page waits for its requests.
    ///
    /// # Panics
    /// When the browser fails.
    #[must_use]
    pub fn open_served(&self, address: &str, width: u32, milliseconds: u32) -> Opened {
        let mut command = self.command_of(address, width);
        command.arg(format!("--virtual-time-budget={milliseconds}"));
        self.opened(command)
    }

    fn opened(&self, mut command: Command) -> Opened {
        while self.asked.try_recv().is_ok() {}
        let output = command.arg("--dump-dom").output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{log}");
        let for_the_page = |line: &String| {
            let target = line.split(' ').nth(1).unwrap_or_default();
            let target = target.split("//").last().unwrap_or_default();
            let host = target.split(['/', ':']).next().unwrap_or_default();
            !ITS_MAKERS.iter().any(|own| host.ends_with(own))
        };
        Opened {
            dom: String::from_utf8_lossy(&output.stdout).into_owned(),
            log,
            asked: self.asked.try_iter().filter(for_the_page).collect(),
        }
    }

    /// Returns a picture of a page of a file.
    ///
    /// # Panics
    /// When the browser fails.
    #[must_use]
    pub fn screenshot(&self, page: &Path, width: u32) -> Image {
        let path = self.directory.path().join("screenshot.png");
        let mut command = self.command(page, width);
        let output = command
            .arg(format!("--screenshot={}", path.display()))
            .output();
        let output = output.unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Image::open(&path).unwrap()
    }
}

fn refuse(mut stream: &TcpStream) {
    let _ = stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n");
}

/// Returns the console lines of a browser's log.
#[must_use]
pub fn console(log: &str) -> Vec<&str> {
    log.lines()
        .filter(|line| line.contains("CONSOLE"))
        .collect()
}
