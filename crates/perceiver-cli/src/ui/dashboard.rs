//! The views of a run: the page in a browser and the view in the terminal, where this build has them.

use std::any::Any;
use std::io::IsTerminal;
#[cfg(feature = "serve")]
use std::thread::{self, JoinHandle};

use anyhow::Result;
#[cfg(feature = "serve")]
use perceiver_serve::{Dashboard, ServeError, StopHandle};
use perceiver_train::RunDirectory;

use crate::args::errors::usage_error;
use crate::runtime::build_features::require;
#[cfg(feature = "serve")]
use crate::ui::terminal;
#[cfg(feature = "tui")]
use crate::ui::tui;

/// The port of the page, unless another one is given.
#[cfg(feature = "serve")]
const PORT: u16 = 8081;

/// A view that is closed when it is dropped.
pub(crate) type OpenView = Box<dyn Any>;

/// Checks that this build has the page, for the flag or command `what`.
///
/// # Errors
/// Without the feature `serve`.
pub(crate) fn require_page(what: &str) -> Result<()> {
    require(what, "serve", cfg!(feature = "serve"))
}

/// Checks that this build has the view in the terminal, and that there is a terminal.
///
/// # Errors
/// Without the feature `tui`, and when standard error is no terminal.
pub(crate) fn require_terminal_view() -> Result<()> {
    require("--terminal", "tui", cfg!(feature = "tui"))?;
    if std::io::stderr().is_terminal() {
        return Ok(());
    }
    Err(usage_error(anyhow::anyhow!(
        "--terminal: expected a terminal, found none on standard error"
    )))
}

/// Serves the page of a run until Ctrl-C or SIGTERM. Its address is printed to standard output.
///
/// # Errors
/// When the run cannot be read, the port cannot be listened on, or this build has no page.
#[cfg(feature = "serve")]
pub(crate) fn follow_in_browser(run: RunDirectory, port: Option<u16>) -> Result<()> {
    let server = bind(run, port)?;
    terminal::print(format_args!("http://{}", server.address()))?; // last: who reads it may connect now
    server.run_until_signal()?;
    Ok(())
}

#[cfg(not(feature = "serve"))]
pub(crate) fn follow_in_browser(_run: RunDirectory, _port: Option<u16>) -> Result<()> {
    require_page("perceiver watch")
}

/// Shows a run in the terminal until a key closes the view.
///
/// # Errors
/// When the run cannot be read, or there is no terminal or this build has no view for it.
pub(crate) fn follow_in_terminal(run: RunDirectory) -> Result<()> {
    require_terminal_view()?;
    #[cfg(feature = "tui")]
    tui::follow(run)?;
    #[cfg(not(feature = "tui"))]
    drop(run);
    Ok(())
}

/// Opens the view in the terminal of a run that this process trains.
///
/// # Errors
/// When no thread can be started.
pub(crate) fn open_terminal_view(run: RunDirectory) -> Result<OpenView> {
    require_terminal_view()?;
    #[cfg(feature = "tui")]
    let view = tui::TerminalView::start(run)?;
    #[cfg(not(feature = "tui"))]
    let view = run;
    Ok(Box::new(view))
}

/// Serves the page of a run that this process trains, on a thread of its own. A server that fails
/// does not end the training.
///
/// # Errors
/// When the port cannot be listened on, or no thread can be started.
pub(crate) fn open_page(run: RunDirectory, port: Option<u16>) -> Result<OpenView> {
    require_page("--dashboard")?;
    #[cfg(feature = "serve")]
    let page = ServedPage::start(run, port)?;
    #[cfg(not(feature = "serve"))]
    let page = (run, port);
    Ok(Box::new(page))
}

/// Creates the server of a run's page: on the given port, or on the default one if that is free, or
/// on any.
#[cfg(feature = "serve")]
fn bind(run: RunDirectory, port: Option<u16>) -> Result<Dashboard> {
    let bound = match port {
        Some(port) => Dashboard::bind(run, port),
        None => match Dashboard::bind(run.clone(), PORT) {
            Err(ServeError::Bind { .. }) => Dashboard::bind(run, 0),
            bound => bound,
        },
    };
    let server = bound?;
    tracing::info!(
        "the report of the run, updated while it trains: http://{}",
        server.address()
    );
    Ok(server)
}

/// The page of a run that this process trains.
#[cfg(feature = "serve")]
struct ServedPage {
    stop: StopHandle,
    thread: Option<JoinHandle<()>>,
}

#[cfg(feature = "serve")]
impl ServedPage {
    fn start(run: RunDirectory, port: Option<u16>) -> Result<Self> {
        let server = bind(run, port)?;
        let stop = server.stop_handle();
        let serve = move || {
            if let Err(error) = server.run() {
                tracing::warn!("the page of the run is no longer served: {error}");
            }
        };
        let thread = thread::Builder::new().name("dashboard".to_string());
        Ok(Self {
            stop,
            thread: Some(thread.spawn(serve)?),
        })
    }
}

#[cfg(feature = "serve")]
impl Drop for ServedPage {
    /// Shows the last state of the run to open pages, and stops the server.
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic there has printed its message
        }
    }
}

#[cfg(all(test, not(any(feature = "serve", feature = "tui"))))]
mod tests {
    use super::*;

    #[test]
    fn the_feature_of_a_view_that_is_not_built_in_is_named() {
        for (refused, what, feature) in [
            (require_terminal_view(), "--terminal", "tui"),
            (require_page("--dashboard"), "--dashboard", "serve"),
        ] {
            let error = refused.unwrap_err().to_string();
            let expected = format!("{what} needs the Cargo feature `{feature}`");
            assert!(error.starts_with(&expected), "{error}");
            let command = format!("cargo run -p perceiver-cli --features {feature} -- ");
            assert!(error.contains(&command), "{error}");
        }
    }
}
