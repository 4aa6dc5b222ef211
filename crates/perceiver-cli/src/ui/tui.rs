//! The view of a run in the terminal: curves, remaining time, speed, memory, warnings and the log.
//!
//! It reads the files of the run, as `perceiver watch` does, so the training does not know of it.
//! The terminal is restored when the view is closed, also after an error, a panic and Ctrl-C.

mod curves;
mod draw;
#[cfg(test)]
mod tests;

use std::io::{self, Stderr, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, TryLockError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use perceiver_report::{Change, RunWatch};
use perceiver_train::RunDirectory;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::crossterm::{cursor, execute};

use crate::runtime::signals;
use crate::ui::terminal;
use draw::View;

/// The time between two looks at the files of the run.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// The longest wait for a key before the log is drawn again.
const BETWEEN_FRAMES: Duration = Duration::from_millis(100);

/// The log lines that are drawn at most.
const LOG_LINES: usize = 100;

/// Whether the view has the terminal. Drawing holds the lock.
static SCREEN: Mutex<bool> = Mutex::new(false);

/// Returns the lock of the screen. After a panic while drawing, the drawing thread itself may hold
/// it, and then it is given up after a moment.
fn screen() -> Option<MutexGuard<'static, bool>> {
    for _ in 0..50 {
        match SCREEN.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(10)),
        }
    }
    None
}

/// Gives the terminal back if the view has it, and prints the log lines that were held back.
pub(crate) fn restore() {
    let mut guard = screen();
    let is_on = guard.as_deref_mut().is_none_or(std::mem::take);
    if !is_on {
        return;
    }
    // A terminal that is gone cannot be restored.
    let _ = disable_raw_mode();
    let _ = execute!(io::stderr(), LeaveAlternateScreen, cursor::Show);
    let _ = io::stderr().flush();
    terminal::release();
}

/// Restores the terminal before a panic prints its message.
fn restore_on_panic() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            before(panic);
        }));
    });
}

/// The screen of the view; the terminal is restored when it is dropped.
struct Screen(Terminal<CrosstermBackend<Stderr>>);

impl Screen {
    fn open() -> Result<Self> {
        restore_on_panic();
        terminal::hold();
        if let Some(mut is_on) = screen() {
            *is_on = true;
        }
        let opened = (|| {
            enable_raw_mode()?;
            execute!(io::stderr(), EnterAlternateScreen, cursor::Hide)?;
            Terminal::new(CrosstermBackend::new(io::stderr()))
        })();
        match opened {
            Ok(terminal) => Ok(Self(terminal)),
            Err(error) => {
                restore();
                Err(error).context("cannot draw in the terminal")
            }
        }
    }

    /// Draws the view, unless the terminal has been given back.
    fn draw(&mut self, view: &View<'_>) -> Result<()> {
        let Some(is_on) = screen() else {
            return Ok(());
        };
        if *is_on {
            self.0.draw(|frame| draw::draw(frame, view))?;
        }
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Close,
    Interrupt,
}

/// Waits for a key for a moment.
fn key() -> Option<Request> {
    match event::poll(BETWEEN_FRAMES) {
        Ok(true) => {}
        Ok(false) => return None,
        Err(_) => {
            thread::sleep(BETWEEN_FRAMES); // no keyboard
            return None;
        }
    }
    let Ok(Event::Key(key)) = event::read() else {
        return None;
    };
    let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        _ if key.kind == KeyEventKind::Release => None,
        KeyCode::Char('c') if is_control => Some(Request::Interrupt),
        KeyCode::Char('q') | KeyCode::Esc => Some(Request::Close),
        _ => None,
    }
}

/// Shows the run until a key closes the view or `end` is set. `on_interrupt` handles Ctrl-C, and
/// returns whether the view is closed.
fn show(
    run: RunDirectory,
    end: &AtomicBool,
    is_training: bool,
    on_interrupt: impl Fn() -> bool,
) -> Result<()> {
    let mut run = RunWatch::open(run)?;
    let mut screen = Screen::open()?;
    let mut looked = Instant::now();
    let mut log = Vec::new();
    let mut is_new = true;
    while !end.load(Ordering::Relaxed) {
        if looked.elapsed() >= BETWEEN_LOOKS {
            is_new |= run.poll() > Change::Nothing;
            looked = Instant::now();
        }
        let lines = terminal::held_lines(LOG_LINES);
        is_new |= lines != log;
        log = lines;
        if is_new {
            screen.draw(&View {
                snapshot: run.snapshot(),
                log: is_training.then_some(&log[..]),
                is_training,
            })?;
        }
        let before = screen.0.size()?;
        match key() {
            Some(Request::Close) => return Ok(()),
            Some(Request::Interrupt) if on_interrupt() => return Ok(()),
            Some(Request::Interrupt) | None => {}
        }
        is_new = screen.0.size()? != before;
    }
    Ok(())
}

/// Shows a run until `q`, Ctrl-C or SIGTERM.
///
/// # Errors
/// When the run cannot be read, or the terminal cannot be drawn to.
pub(crate) fn follow(run: RunDirectory) -> Result<()> {
    let end = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&end);
    ctrlc::set_handler(move || ended.store(true, Ordering::Relaxed))
        .context("cannot install a handler for SIGTERM")?;
    show(run, &end, false, || true)
}

/// The view of a run that this process trains, on a thread of its own.
pub(crate) struct TerminalView {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl TerminalView {
    /// Opens the view. A view that fails is closed, and the training goes on.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn start(run: RunDirectory) -> Result<Self> {
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let view = move || {
            let interrupt = || {
                signals::interrupt();
                false
            };
            if let Err(error) = show(run, &ended, true, interrupt) {
                tracing::warn!("the view in the terminal is closed: {error:#}");
            }
        };
        let thread = thread::Builder::new().name("terminal view".to_string());
        Ok(Self {
            end,
            thread: Some(thread.spawn(view)?),
        })
    }
}

impl Drop for TerminalView {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic there has printed its message
        }
        restore();
    }
}
