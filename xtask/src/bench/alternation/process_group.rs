//! A process with all that it starts, which can be stopped, continued and killed together.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::turns::Step;
use crate::bench::contestant::Contestant;
use crate::error::{Result, XtaskError};

/// The number of lines kept to say what a process that has ended printed last.
const LAST_LINES: usize = 8;

/// How long to wait for the last lines of a process that has ended: processes that it started may
/// hold its pipes open.
const UNTIL_READ: Duration = Duration::from_secs(1);

/// A process of its own group; dropping it kills the group.
///
/// The group stays in the session of this program. If this program is killed, nothing is dropped;
/// but a group that is orphaned with stopped members is hung up and continued by the system (POSIX,
/// `_exit`), unless the process that adopts it is of the same session. A process that is awake fails
/// at its next line.
#[derive(Debug)]
pub(super) struct ProcessGroup {
    contestant: Contestant,
    child: Child,
    output: Arc<Mutex<Output>>,
    readers: Vec<JoinHandle<()>>,
}

/// What a process has printed, on standard output and standard error.
#[derive(Debug, Default)]
struct Output {
    steps: Vec<Step>,
    last_lines: VecDeque<String>,
}

impl ProcessGroup {
    /// Starts a contestant in a group of its own.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn spawn(contestant: &Contestant) -> Result<Self> {
        let mut child = contestant
            .command()
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| contestant.failed(error.to_string()))?;
        let output = Arc::new(Mutex::new(Output::default()));
        let stdout = child.stdout.take().map(|pipe| read(pipe, &output));
        let stderr = child.stderr.take().map(|pipe| read(pipe, &output));
        Ok(Self {
            contestant: contestant.clone(),
            child,
            output,
            readers: stdout.into_iter().chain(stderr).collect(),
        })
    }

    /// Stops the group; its processes keep their memory.
    pub(super) fn stop(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Continues the group.
    pub(super) fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        // It fails only if the group has gone, which `check` reports.
        let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), signal);
    }

    /// Returns the number of steps so far.
    pub(super) fn steps(&self) -> usize {
        lock(&self.output).steps.len()
    }

    /// Returns all steps so far.
    pub(super) fn step_log(&self) -> Vec<Step> {
        lock(&self.output).steps.clone()
    }

    /// Returns the peak memory of the process in bytes, on Linux.
    pub(super) fn peak_memory_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kibibytes * 1024)
    }

    /// Checks that the process is alive; the error has its last output.
    ///
    /// # Errors
    /// [`XtaskError::Contestant`] if it has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.failed(self.end(status))),
            Err(error) => Err(self.failed(error.to_string())),
        }
    }

    /// Describes the end of the process.
    fn end(&self, status: ExitStatus) -> String {
        let start = Instant::now();
        while start.elapsed() < UNTIL_READ && !self.readers.iter().all(JoinHandle::is_finished) {
            sleep(Duration::from_millis(5));
        }
        let hint = match status.signal() {
            Some(killed) if killed == Signal::SIGKILL as i32 => {
                " (if memory ran out, use a smaller --batch-size or fewer --only-peers)"
            }
            _ => "",
        };
        let lines: Vec<String> = lock(&self.output).last_lines.iter().cloned().collect();
        match &lines[..] {
            [] => format!("it ended, {status}{hint}, without output"),
            lines => format!(
                "it ended, {status}{hint}, and printed last:\n{}",
                lines.join("\n")
            ),
        }
    }

    /// Returns an error about this contestant.
    pub(super) fn failed(&self, finding: String) -> XtaskError {
        self.contestant.failed(finding)
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        // It was killed, so it ends; an error means that it was waited for before.
        let _ = self.child.wait();
    }
}

/// Reads lines on a thread until the pipe is closed.
fn read(pipe: impl Read + Send + 'static, output: &Arc<Mutex<Output>>) -> JoinHandle<()> {
    let output = Arc::clone(output);
    spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!(pipe.read_until(b'\n', &mut line), Ok(1..)) {
            lock(&output).add(String::from_utf8_lossy(&line).trim_end());
            line.clear();
        }
    })
}

impl Output {
    fn add(&mut self, line: &str) {
        let amount = line
            .strip_prefix("step ")
            .and_then(|amount| amount.parse().ok());
        if let Some(amount) = amount {
            let at = Instant::now();
            self.steps.push(Step { at, amount });
            return;
        }
        if self.last_lines.len() == LAST_LINES {
            self.last_lines.pop_front();
        }
        self.last_lines.push_back(line.to_owned());
    }
}

fn lock(output: &Mutex<Output>) -> MutexGuard<'_, Output> {
    output.lock().unwrap_or_else(PoisonError::into_inner)
}
