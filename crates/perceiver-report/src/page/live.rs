//! The page of a run that is being watched: the report, with what the run does now.

use askama::Template;

use crate::error::Result;
use crate::live::{RunState, Snapshot};
use crate::page::{Page, Shows, page};
use crate::text::json_in_page;

pub(crate) const JS: &str = include_str!("../../templates/live.js");

/// What a page that is being watched has beside the report.
pub(crate) struct Live {
    /// The version of the page: later ones are larger.
    pub(crate) version: u64,
    pub(crate) status: Status,
    /// Whether there is a complete report to link to.
    pub(crate) has_report: bool,
}

/// What the run does now, as the page shows it.
#[derive(serde::Serialize)]
pub(crate) struct Status {
    pub(crate) state: &'static str,
    pub(crate) label: &'static str,
    pub(crate) position: String,
    pub(crate) measurements: Vec<(&'static str, String)>,
    /// The share of the run that is done, in percent.
    pub(crate) percent: Option<f64>,
    /// The watchdog's warnings of the epoch so far.
    pub(crate) warnings: Vec<String>,
}

impl Status {
    fn new(snapshot: &Snapshot) -> Self {
        let warnings = snapshot.running().map(|now| &now.warnings[..]);
        Self {
            state: match snapshot.state {
                RunState::Running => "running",
                RunState::Stopped => "stopped",
                RunState::Finished => "finished",
            },
            label: snapshot.label(),
            position: snapshot.position(),
            measurements: snapshot.measurements(),
            percent: snapshot.share().map(|share| (1e3 * share).round() / 10.0),
            warnings: warnings
                .unwrap_or_default()
                .iter()
                .map(|warning| format!("Warning at step {}: {warning}", warning.step))
                .collect(),
        }
    }
}

/// Renders the report of a run that is being watched. Its script follows the server-sent events of
/// `/events`; `version` is that of the page.
///
/// # Errors
/// When a value cannot be formatted.
pub fn live_page(snapshot: &Snapshot, version: u64) -> Result<String> {
    let mut page: Page = page(&snapshot.run, &Shows::default())?;
    if let Some(problem) = &snapshot.problem {
        page.notes
            .push(format!("The run could not be read again: {problem}."));
    }
    page.live = Some(Live {
        version,
        status: Status::new(snapshot),
        has_report: snapshot.has_report,
    });
    Ok(page.render()?)
}

/// Formats what a run does now as JSON, for the script of [`live_page`].
///
/// # Errors
/// When a value cannot be formatted.
pub fn live_status(snapshot: &Snapshot) -> Result<String> {
    let json = json_in_page(&Status::new(snapshot)).map_err(std::io::Error::from);
    Ok(json.map_err(image::ImageError::IoError)?)
}
