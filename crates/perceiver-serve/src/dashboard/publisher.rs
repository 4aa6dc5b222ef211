//! Looks at the run once a second, and publishes the page and what the run does now.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use perceiver_report::{Change, ReportError, RunWatch, live_page, live_status};
use tokio::sync::watch;

use crate::dashboard::answers::DashboardState;
use crate::error::{Result, ServeError};
use crate::http::connection::Phase;

/// The time between two looks at the run.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// The time that open pages have to fetch the last state when the server stops.
const LAST_FETCH: Duration = Duration::from_secs(3);

/// What is published of a run.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    /// The version of the page: later ones are larger, also those of a later server.
    pub(crate) version: u64,
    pub(crate) page: Bytes,
    /// What the run does now, as JSON.
    pub(crate) status: Arc<str>,
}

/// Publishes a run.
#[derive(Debug)]
pub(crate) struct Publisher {
    run: RunWatch,
    pub(crate) report: PathBuf,
    pub(crate) published: watch::Sender<Published>,
}

impl Publisher {
    /// Renders a run for the first time.
    ///
    /// # Errors
    /// When a value of the run cannot be formatted.
    pub(crate) fn new(run: RunWatch, report: PathBuf) -> Result<Self> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let version = since.map_or(1, |since| since.as_millis() as u64);
        let published = watch::Sender::new(rendered(&run, version)?);
        Ok(Self {
            run,
            report,
            published,
        })
    }

    /// Publishes every change until the server is stopped, and then the last one, for which open
    /// pages get some time.
    pub(crate) async fn publish_until(
        mut self,
        mut stop: watch::Receiver<Phase>,
        state: &DashboardState,
    ) {
        loop {
            let stopped = stop.wait_for(|phase| *phase > Phase::Running);
            let is_stopping = tokio::time::timeout(BETWEEN_LOOKS, stopped).await.is_ok();
            // Reading and rendering take a while for large runs.
            let looked = tokio::task::spawn_blocking(move || {
                self.look();
                self
            });
            let Ok(publisher) = looked.await else {
                return; // it panicked, which is logged
            };
            self = publisher;
            if is_stopping {
                break;
            }
        }
        let version = self.published.borrow().version;
        let fetched = async {
            while state.newest_fetches(version) < state.streams.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = tokio::time::timeout(LAST_FETCH, fetched).await;
    }

    fn look(&mut self) {
        let change = self.run.poll();
        let before = self.published.borrow().clone();
        let next = match change {
            Change::Nothing => return,
            Change::Progress => live_status(self.run.snapshot())
                .map(|status| Published {
                    status: status.into(),
                    ..before
                })
                .map_err(ServeError::from),
            Change::Run => rendered(&self.run, before.version + 1),
        };
        match next {
            Ok(next) => drop(self.published.send_replace(next)),
            Err(error) => tracing::warn!("the page cannot be updated: {error}"),
        }
    }
}

fn rendered(run: &RunWatch, version: u64) -> Result<Published> {
    Ok(Published {
        version,
        page: live_page(run.snapshot(), version)?.into(),
        status: live_status(run.snapshot())?.into(),
    })
}

impl From<ReportError> for ServeError {
    fn from(error: ReportError) -> Self {
        Self::Report(Box::new(error))
    }
}
