//! Progress bars of data loading: downloads, decoding, mean and variance.

use std::sync::{Mutex, PoisonError};

use indicatif::ProgressBar;
use perceiver_data::{LoadProgress, ProgressCallback, Work};

use crate::ui::progress::{image_bar, transfer_bar};

/// A bar and its label.
struct Shown {
    what: String,
    bar: ProgressBar,
}

/// Creates a callback that shows a progress bar for each operation until it is done.
pub(crate) fn watcher() -> ProgressCallback {
    let shown: Mutex<Option<Shown>> = Mutex::new(None);
    ProgressCallback::new(move |reading| {
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        show(&mut shown, reading);
    })
}

fn show(shown: &mut Option<Shown>, reading: &LoadProgress<'_>) {
    let what = match reading.work {
        Work::Download(file) => file,
        Work::Decode => "decoding",
        Work::Adapt => "normalizing",
        _ => "reading",
    };
    if shown.as_ref().is_none_or(|shown| shown.what != what) {
        finish(shown);
        let bar = match reading.work {
            Work::Download(_) => transfer_bar(reading.total, what),
            _ => image_bar(reading.total, what),
        };
        let what = what.to_string();
        *shown = Some(Shown { what, bar });
    }
    if let Some(Shown { bar, .. }) = shown {
        // Threads may report out of order.
        bar.set_position(reading.done.max(bar.position()));
    }
    if reading.done >= reading.total {
        finish(shown);
    }
}

fn finish(shown: &mut Option<Shown>) {
    if let Some(Shown { bar, .. }) = shown.take() {
        bar.finish_and_clear();
    }
}
