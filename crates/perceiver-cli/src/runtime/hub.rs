//! Access to the Hugging Face Hub by the environment, with progress bars.

use std::sync::{Arc, Mutex, PoisonError};

use indicatif::ProgressBar;
use perceiver_hub::{HubAccess, HubProgress};

use crate::ui::escape;
use crate::ui::terminal;

const TRANSFER: &str =
    "{prefix} [{bar:24}] {bytes}/{total_bytes}  {bytes_per_sec}  {elapsed}{left}";

/// Creates access to the Hub with a progress bar per file.
pub(crate) fn with_bar(offline: bool) -> HubAccess {
    let bar = Mutex::new(None);
    let mut access = HubAccess::from_env();
    access.offline |= offline;
    access.on_progress = Some(Arc::new(move |progress| {
        show(
            &mut bar.lock().unwrap_or_else(PoisonError::into_inner),
            progress,
        );
    }));
    access
}

fn show(bar: &mut Option<ProgressBar>, progress: &HubProgress) {
    let name = escape::line(progress.file);
    let same = bar.take().filter(|bar| bar.prefix() == name);
    let shown = same.unwrap_or_else(|| terminal::bar(progress.total, TRANSFER, progress.file));
    shown.set_length(progress.total);
    shown.set_position(progress.done);
    if progress.done < progress.total {
        *bar = Some(shown);
    } else {
        shown.finish_and_clear();
    }
}
