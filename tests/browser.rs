//! Opens reports in a real browser, if one is installed: no errors, no network requests, no
//! horizontal overflow.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use perceiver_data::Image;
use perceiver_tests::program::Sandbox;

/// Hosts that the browser contacts on its own: services of its vendor.
const ITS_MAKERS: [&str; 5] = [
    "google.com",
    "googleapis.com",
    "gvt1.com",
    "gstatic.com",
    "google",
];

/// A headless browser whose only network access is a proxy that rejects every request.
struct Browser {
    program: PathBuf,
    directory: tempfile::TempDir,
    proxy: u16,
    asked: Receiver<String>,
}

/// The result of opening a page.
struct Opened {
    dom: String,
    /// The browser's log, including the console.
    log: String,
    /// The network requests for the page, one line each.
    asked: Vec<String>,
}

impl Browser {
    /// Finds the browser of `$CHROME`, or one with a usual name. Prints a notice if there is none.
    fn find() -> Option<Self> {
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

    fn command(&self, page: &Path, width: u32) -> Command {
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
            .arg("--proxy-bypass-list=<-loopback>")
            .arg(format!(
                "--user-data-dir={}",
                self.directory.path().display()
            ))
            .stdin(Stdio::null());
        command.arg(format!("file://{}", page.display()));
        command
    }

    fn open(&self, page: &Path, width: u32) -> Opened {
        while self.asked.try_recv().is_ok() {}
        let mut command = self.command(page, width);
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

    fn screenshot(&self, page: &Path, width: u32) -> Image {
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
fn console(log: &str) -> Vec<&str> {
    log.lines()
        .filter(|line| line.contains("CONSOLE"))
        .collect()
}

/// Appends a script to the page that operates its charts, tables and controls, and records the
/// overflow, the number of sorted tables, and the texts that it got to see.
fn measured(page: &str) -> String {
    let script = "<script>
        const texts = [];
        const key = (element, name) => element.dispatchEvent(new KeyboardEvent('keydown', {key: name, bubbles: true}));
        const plot = document.querySelector('.plot');
        key(plot, 'ArrowRight');
        texts.push(plot.parentElement.querySelector('output').textContent);
        const form = document.querySelector('form.controls');
        for (const unit of form.elements.unit || []) {
            form.elements.log.checked = true;
            form.elements.weight.value = 0.5;
            unit.checked = true;
            form.dispatchEvent(new Event('input'));
            key(plot, 'ArrowRight');
            texts.push(plot.parentElement.querySelector('output').textContent);
        }
        texts.push(plot.querySelectorAll('polyline').length + ' lines');
        const cell = document.querySelector('.matrix [data-cell], .map .plane');
        if (cell) { key(cell, 'Enter'); texts.push(document.querySelector('dialog').open); document.querySelector('dialog').close(); }
        for (const button of document.querySelectorAll('.sortable thead button')) { button.click(); button.click(); }
        const sorted = document.querySelectorAll('th[aria-sort=\"descending\"]').length;
        const over = document.documentElement.scrollWidth - document.documentElement.clientWidth;
        document.documentElement.dataset.measured = `over ${over} sorted ${sorted}`;
        document.documentElement.dataset.texts = texts.join('; ');
    </script>";
    page.replace("</body>", &format!("{script}</body>"))
}

#[test]
fn page_errors_are_detected() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let page = browser.directory.path().join("bad.html");
    fs::write(
        &page,
        "<img src=\"http://leak.test/x.png\"><script>nothing()</script>",
    )
    .unwrap();
    let opened = browser.open(&page, 1280);
    assert!(!console(&opened.log).is_empty(), "{}", opened.log);
    assert!(
        opened.asked.iter().any(|line| line.contains("leak.test")),
        "{:?}",
        opened.asked
    );
}

#[test]
fn a_report_opens_without_errors_requests_or_overflow() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
    sandbox.succeed("train --preset quickstart --config tiny.toml --epochs 3 --output run");
    sandbox.succeed("train --preset quickstart --config tiny.toml --seed 1 --output other");
    sandbox.succeed("compare run other --output compare.html");
    for file in ["run/report.html", "compare.html"] {
        let html = fs::read_to_string(sandbox.path(file)).unwrap();
        let page = sandbox.path("measured.html");
        fs::write(&page, measured(&html)).unwrap();
        for width in [1280, 390] {
            let opened = browser.open(&page, width);
            assert_eq!(console(&opened.log), Vec::<&str>::new(), "{file}");
            assert_eq!(opened.asked, Vec::<String>::new(), "{file}");
            let tables = opened.dom.matches("<table class=\"sortable").count();
            let expected = format!("data-measured=\"over 0 sorted {tables}\"");
            assert!(
                opened.dom.contains(&expected),
                "{file} at {width}: expected {expected}"
            );
            let texts = opened.dom.split("data-texts=\"").nth(1).unwrap();
            let texts = texts.split('"').next().unwrap();
            let mut seen = vec!["epoch 1", "step ", "minute ", " lines"];
            if file == "run/report.html" {
                seen.push("; true"); // the dialog of a cell was open
            }
            for text in seen {
                assert!(texts.contains(text), "{file}: {text:?} in {texts:?}");
            }
        }
        let shot = browser.screenshot(&sandbox.path(file), 1280);
        assert_eq!(shot.width(), 1280);
        let first = shot.pixels()[0];
        assert!(
            shot.pixels().iter().any(|&pixel| pixel != first),
            "something is shown"
        );
        browser.screenshot(&sandbox.path(file), 390);
    }
}
