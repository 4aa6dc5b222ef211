//! The lock of a run directory: one writer at a time, on this machine and on others that share its
//! disk.
//!
//! Between processes of one machine, the operating system's lock on `lock.json` decides; it ends
//! with its holder, however that ends. A shared disk may not propagate locks between machines. So
//! the file also names its holder, which increments a counter in it every few seconds; a process on
//! another machine waits to see whether the counter changes.
//!
//! The holder removes the file when it is done. The file of a killed holder stays.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use perceiver_files::{open_regular, read_limited, read_regular};
use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};

/// The maximum size of a lock file, which is one line.
const MAX_BYTES: u64 = 1 << 16;

/// The name of the lock file.
const NAME: &str = "lock.json";

/// The number of attempts to take a held lock: a process that only checks the lock holds it for a
/// moment.
const TRIES: usize = 10;
const BETWEEN_TRIES: Duration = Duration::from_millis(20);

/// The heartbeat interval of a holder, and how long others watch for it.
#[derive(Clone, Copy, Debug)]
struct Rhythm {
    beat: Duration,
    watch: Duration,
}

const RHYTHM: Rhythm = Rhythm {
    beat: Duration::from_secs(5),
    watch: Duration::from_secs(20),
};

/// The content of `lock.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    /// The host name, if the system reports it.
    host: Option<String>,
    /// The boot ID of the machine, if the system reports it: containers of one machine have
    /// different host names but share locks.
    boot: Option<String>,
    pid: u32,
    started: String,
}

impl Holder {
    fn here() -> Self {
        let read_file = |path| fs::read_to_string(path).ok();
        let host = read_file("/proc/sys/kernel/hostname");
        let host = host.or_else(|| std::env::var("COMPUTERNAME").ok());
        let host = host.or_else(|| std::env::var("HOSTNAME").ok());
        let trimmed = |text: String| text.trim().to_string();
        Self {
            host: host.map(trimmed),
            boot: read_file("/proc/sys/kernel/random/boot_id").map(trimmed),
            pid: std::process::id(),
            started: humantime::format_rfc3339_nanos(SystemTime::now()).to_string(),
        }
    }

    /// Returns whether both processes see the same operating system's locks.
    fn shares_a_machine_with(&self, other: &Self) -> bool {
        self.host == other.host || (self.boot.is_some() && self.boot == other.boot)
    }

    /// Describes the holder for messages.
    fn describe(&self, here: &Self) -> String {
        let started = self.started.split('.').next().unwrap_or_default();
        let host = match &self.host {
            Some(host) if !self.shares_a_machine_with(here) => format!(" on {host}"),
            _ => String::new(),
        };
        let own = self.pid == here.pid && self.shares_a_machine_with(here);
        let own = if own { " (this process)" } else { "" };
        format!("process {}{host}{own}, since {started}Z", self.pid)
    }
}

/// The whole content of the file, of constant length.
#[derive(Serialize, Deserialize)]
struct Content {
    #[serde(flatten)]
    holder: Holder,
    beat: String,
}

impl Content {
    fn of(holder: &Holder, beat: u64) -> io::Result<Vec<u8>> {
        let (holder, beat) = (holder.clone(), format!("{beat:020}"));
        Ok(serde_json::to_vec(&Self { holder, beat })?)
    }

    fn holder_in(bytes: &[u8]) -> Option<Holder> {
        let content: Self = serde_json::from_slice(bytes).ok()?;
        Some(content.holder)
    }
}

/// The exclusive right to write a directory, until it is dropped.
#[derive(Debug)]
pub struct DirectoryLock {
    directory: PathBuf,
    /// The open file, which holds the operating system's lock.
    _file: Arc<File>,
    /// Whether another process has taken the directory, as it may after this one was suspended for
    /// long.
    lost: Arc<AtomicBool>,
    /// Ends the counter's thread when dropped.
    end: Option<Sender<()>>,
    counting: Option<JoinHandle<()>>,
    /// Directories created for the lock, innermost first. They are removed with it if they are
    /// empty.
    made: Vec<PathBuf>,
}

impl DirectoryLock {
    /// Locks a directory, and creates it if it is missing. If a process on another machine held it
    /// and has not released it, this takes 20 seconds.
    ///
    /// # Errors
    /// [`TrainError::InUse`] when another process or another lock of this process holds it; and
    /// when the operating system refuses.
    pub fn take(directory: &Path) -> Result<Self> {
        Self::take_made(directory, Vec::new())
    }

    /// Creates and locks a directory under the first unused name in `parent`: `NAME-1`, `NAME-2`,
    /// ... If it is still empty when the lock is released, it is removed.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn take_unused(parent: &Path, name: &str) -> Result<(PathBuf, Self)> {
        let (root, made) = make_unused(parent, name)?;
        let lock = Self::take_made(&root, made)?;
        Ok((root, lock))
    }

    /// [`DirectoryLock::take`] with the directories that were created for it before.
    pub(crate) fn take_made(directory: &Path, made: Vec<PathBuf>) -> Result<Self> {
        Self::take_in(directory, made, RHYTHM)
    }

    fn take_in(directory: &Path, mut made: Vec<PathBuf>, rhythm: Rhythm) -> Result<Self> {
        let path = directory.join(NAME);
        let here = Holder::here();
        let mut holder = None;
        for _ in 0..TRIES {
            make(directory, &mut made)?;
            match attempt(&path, &here, rhythm).map_err(|source| TrainError::Io {
                action: "write",
                path: path.clone(),
                source,
            })? {
                Attempt::Taken(file) => {
                    return Ok(Self::held(directory, file, here, made, rhythm));
                }
                Attempt::Watched(holder) => return Err(in_use(directory, holder.as_ref(), &here)),
                // The file may be gone when all attempts are over.
                Attempt::Locked => holder = holder_in(&path).or(holder),
                Attempt::Replaced => {}
            }
            thread::sleep(BETWEEN_TRIES);
        }
        Err(in_use(directory, holder.as_ref(), &here))
    }

    fn held(
        directory: &Path,
        file: File,
        here: Holder,
        made: Vec<PathBuf>,
        rhythm: Rhythm,
    ) -> Self {
        let (file, lost) = (Arc::new(file), Arc::new(AtomicBool::new(false)));
        let (end, ended) = channel();
        let counter = Counter {
            path: directory.join(NAME),
            file: Arc::clone(&file),
            lost: Arc::clone(&lost),
            here,
            rhythm,
        };
        // Without this thread, other processes on this machine are still kept out.
        let counting = thread::Builder::new().name("directory lock".to_string());
        let counting = counting.spawn(move || counter.count(&ended)).ok();
        Self {
            directory: directory.to_path_buf(),
            _file: file,
            lost,
            end: Some(end),
            counting,
            made,
        }
    }

    /// Checks that no other process has taken the directory meanwhile.
    ///
    /// # Errors
    /// [`TrainError::InUse`] when one has.
    pub(crate) fn require_held(&self) -> Result<()> {
        if !self.lost.load(Ordering::Relaxed) {
            return Ok(());
        }
        let holder = holder_in(&self.directory.join(NAME));
        Err(in_use(&self.directory, holder.as_ref(), &Holder::here()))
    }

    /// Returns whether a process of this machine holds the directory now. The check changes
    /// nothing.
    pub(crate) fn is_taken(directory: &Path) -> bool {
        let file = open_regular(&directory.join(NAME));
        file.is_ok_and(|(file, _)| {
            matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock))
        })
    }

    /// Returns the process on another machine that has not released the directory, for messages.
    pub(crate) fn holder_elsewhere(directory: &Path) -> Option<String> {
        let holder = holder_in(&directory.join(NAME))?;
        let here = Holder::here();
        (!holder.shares_a_machine_with(&here)).then(|| holder.describe(&here))
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(counting) = self.counting.take() {
            drop(counting.join());
        }
        if self.lost.load(Ordering::Relaxed) {
            return; // it belongs to another process
        }
        // Removed while it is locked, so that it cannot be another's. A file that cannot be removed
        // keeps nobody out.
        drop(fs::remove_file(self.directory.join(NAME)));
        for directory in &self.made {
            drop(fs::remove_dir(directory)); // fails unless it is empty
        }
    }
}

/// Returns the holder in a lock file, if it is readable.
fn holder_in(path: &Path) -> Option<Holder> {
    Content::holder_in(&read(path).ok()?)
}

fn in_use(directory: &Path, holder: Option<&Holder>, here: &Holder) -> TrainError {
    TrainError::InUse {
        path: directory.to_path_buf(),
        holder: holder.map_or("another process".to_string(), |holder| {
            holder.describe(here)
        }),
    }
}

/// Creates a directory and its parents, and adds those that were missing to `made`, innermost
/// first.
fn make(directory: &Path, made: &mut Vec<PathBuf>) -> Result<()> {
    let above = directory.ancestors();
    let above = above.filter(|above| !above.as_os_str().is_empty());
    let missing: Vec<PathBuf> = above
        .take_while(|above| !above.exists())
        .map(Path::to_path_buf)
        .collect();
    fs::create_dir_all(directory).map_err(|source| TrainError::Io {
        action: "create",
        path: directory.to_path_buf(),
        source,
    })?;
    made.retain(|before| !missing.contains(before));
    made.splice(0..0, missing);
    Ok(())
}

/// Creates a directory under the first unused name in `parent`: `NAME-1`, `NAME-2`, ... Concurrent
/// callers create different ones. Returns it, and all created directories, innermost first.
///
/// # Errors
/// When the operating system refuses.
pub(crate) fn make_unused(parent: &Path, name: &str) -> Result<(PathBuf, Vec<PathBuf>)> {
    let mut made = Vec::new();
    make(parent, &mut made)?;
    let mut number = 1_u64;
    loop {
        let root = parent.join(format!("{name}-{number}"));
        match fs::create_dir(&root) {
            Ok(()) => {
                made.insert(0, root.clone());
                return Ok((root, made));
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            // Another process has removed the parent, which was empty.
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(parent, &mut made)?,
            Err(source) => {
                let (action, path) = ("create", root);
                return Err(TrainError::Io {
                    action,
                    path,
                    source,
                });
            }
        }
    }
}

/// The result of an attempt to take a lock.
enum Attempt {
    Taken(File),
    /// A process of this machine holds it.
    Locked,
    /// A process on another machine may hold it.
    Watched(Option<Holder>),
    /// It was released meanwhile.
    Replaced,
}

fn attempt(path: &Path, here: &Holder, rhythm: Rhythm) -> io::Result<Attempt> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Attempt::Replaced),
        file => file?,
    };
    let is_locked = match file.try_lock() {
        Ok(()) => true,
        Err(fs::TryLockError::WouldBlock) => return Ok(Attempt::Locked),
        Err(fs::TryLockError::Error(_)) => false, // the file system has no locks
    };
    if !is_at(&file, path)? {
        return Ok(Attempt::Replaced);
    }
    let before = read_limited(&file, MAX_BYTES)?;
    let holder = Content::holder_in(&before);
    let is_over = is_locked
        && holder
            .as_ref()
            .is_some_and(|holder| holder.shares_a_machine_with(here));
    if !before.is_empty() && !is_over {
        match watch(path, &before, rhythm) {
            Watched::Still => {}
            Watched::Counting => return Ok(Attempt::Watched(holder)),
            Watched::Gone => return Ok(Attempt::Replaced),
        }
    }
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(&Content::of(here, 0)?)?;
    Ok(Attempt::Taken(file))
}

/// Returns whether an open file is still the one at `path`. On other systems than Unix, an open
/// file cannot be replaced.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let identity = |of: fs::Metadata| (of.dev(), of.ino());
        let open = identity(file.metadata()?);
        Ok(fs::metadata(path).is_ok_and(|metadata| identity(metadata) == open))
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        Ok(path.exists())
    }
}

/// The state of a lock after the time in which its holder would have incremented the counter.
enum Watched {
    Still,
    Counting,
    Gone,
}

fn watch(path: &Path, before: &[u8], rhythm: Rhythm) -> Watched {
    let steps = 40;
    for _ in 0..steps {
        thread::sleep(rhythm.watch / steps);
        match read(path) {
            Ok(now) if now == before => {}
            Ok(_) => return Watched::Counting,
            Err(_) => return Watched::Gone,
        }
    }
    Watched::Still
}

/// The heartbeat: the counter in the file while the lock is held.
struct Counter {
    path: PathBuf,
    file: Arc<File>,
    lost: Arc<AtomicBool>,
    here: Holder,
    rhythm: Rhythm,
}

impl Counter {
    fn count(&self, ended: &Receiver<()>) {
        for beat in 1.. {
            match ended.recv_timeout(self.rhythm.beat) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => return,
            }
            let holder = read(&self.path).ok();
            let holder = holder.and_then(|bytes| Content::holder_in(&bytes));
            if holder.is_some_and(|holder| holder != self.here) {
                self.lost.store(true, Ordering::Relaxed);
                return;
            }
            // A failed write, as on a full disk, is made up for by the next one.
            drop(self.write(beat));
        }
    }

    fn write(&self, beat: u64) -> io::Result<()> {
        let mut file = &*self.file;
        file.rewind()?;
        file.write_all(&Content::of(&self.here, beat)?)
    }
}

/// Reads the content of a lock file.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_regular(path, MAX_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Rhythm = Rhythm {
        beat: Duration::from_millis(5),
        watch: Duration::from_secs(2),
    };

    /// Returns the lock file of a process on another machine.
    fn elsewhere(beat: u64) -> Vec<u8> {
        let holder = Holder {
            host: Some("elsewhere".to_string()),
            boot: Some("another".to_string()),
            pid: 77,
            started: "2026-01-02T03:04:05.678901234Z".to_string(),
        };
        Content::of(&holder, beat).unwrap()
    }

    fn message(taken: Result<DirectoryLock>) -> String {
        taken.map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn locks_are_exclusive_and_leave_no_files() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("made/for/it");
        for _ in 0..2 {
            assert!(!DirectoryLock::is_taken(&directory));
            let held = DirectoryLock::take(&directory).unwrap();
            assert!(DirectoryLock::is_taken(&directory));
            held.require_held().unwrap();
            let error = message(DirectoryLock::take(&directory));
            let process = format!("process {} (this process), since 2", std::process::id());
            assert!(error.contains(&process), "{error}");
            drop(held);
            assert!(!parent.path().join("made").exists());
        }
        let held = DirectoryLock::take(&directory).unwrap();
        fs::write(directory.join("kept"), "").unwrap();
        drop(held);
        assert!(directory.join("kept").exists() && !directory.join(NAME).exists());
    }

    #[test]
    fn stale_locks_of_killed_local_processes_are_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        let killed = Holder {
            pid: 1,
            ..Holder::here()
        };
        fs::write(&path, Content::of(&killed, 3).unwrap()).unwrap();
        assert_eq!(DirectoryLock::holder_elsewhere(directory.path()), None);
        let held = DirectoryLock::take_in(directory.path(), Vec::new(), FAST).unwrap();
        let holder = Content::holder_in(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(holder.pid, std::process::id());
        drop(held);
        assert!(!path.exists());
    }

    #[test]
    fn processes_on_other_machines_are_detected_by_their_counter() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        fs::write(&path, elsewhere(0)).unwrap();
        let holder = DirectoryLock::holder_elsewhere(directory.path());
        let expected = "process 77 on elsewhere, since 2026-01-02T03:04:05Z";
        assert_eq!(holder.as_deref(), Some(expected));
        let at_work = AtomicBool::new(true);
        let error = thread::scope(|scope| {
            scope.spawn(|| {
                let mut beats = 1..;
                while at_work.load(Ordering::Relaxed) {
                    let mut file = OpenOptions::new().write(true).open(&path).unwrap();
                    file.write_all(&elsewhere(beats.next().unwrap())).unwrap();
                    thread::sleep(FAST.beat);
                }
            });
            let taken = DirectoryLock::take_in(directory.path(), Vec::new(), FAST);
            at_work.store(false, Ordering::Relaxed);
            message(taken)
        });
        assert!(error.contains(expected), "{error}");
        // Its holder has died without releasing it.
        DirectoryLock::take_in(directory.path(), Vec::new(), FAST).unwrap();
        assert!(!path.exists());
    }

    /// A process that was suspended for long, or whose machine was, finds that others have taken
    /// its lock.
    #[test]
    fn a_lock_taken_by_another_machine_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        let held = DirectoryLock::take_in(directory.path(), Vec::new(), FAST).unwrap();
        while held.require_held().is_ok() {
            fs::write(&path, elsewhere(0)).unwrap(); // again, since it may just have written
            thread::sleep(2 * FAST.beat);
        }
        let error = held.require_held().unwrap_err().to_string();
        assert!(error.contains("process 77 on elsewhere"), "{error}");
        drop(held);
        let left = Content::holder_in(&fs::read(&path).unwrap());
        assert_eq!(left, Content::holder_in(&elsewhere(0)));
    }

    /// Of many concurrent processes, one holds the lock at a time, whatever others release and
    /// remove meanwhile.
    #[test]
    fn at_most_one_thread_holds_the_lock() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("run");
        let (inside, taken) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let Ok(lock) = DirectoryLock::take(&directory) else {
                            continue;
                        };
                        assert!(!inside.swap(true, Ordering::SeqCst), "held twice");
                        thread::sleep(Duration::from_millis(1));
                        inside.store(false, Ordering::SeqCst);
                        taken.store(true, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
        assert!(taken.load(Ordering::SeqCst) && !directory.join(NAME).exists());
    }
}
