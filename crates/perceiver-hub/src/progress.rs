//! Transfer progress: passes the events of `hf-hub` to the callback, and logs the start of each
//! file.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use hf_hub::progress::{DownloadEvent, FileStatus, ProgressEvent, ProgressHandler, UploadEvent};
use tracing::info;

/// Progress of a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubProgress<'a> {
    /// Path of the file in the repository; for an upload, a description.
    pub file: &'a str,
    /// Bytes transferred so far.
    pub done: u64,
    /// Total bytes.
    pub total: u64,
}

/// Progress callback of downloads and uploads; called from another thread.
pub type OnProgress = Arc<dyn Fn(&HubProgress) + Send + Sync>;

/// Adapter from the progress events of `hf-hub` to [`OnProgress`].
#[derive(Default)]
pub(crate) struct Reporter {
    on_progress: Option<OnProgress>,
    /// Sizes of the files announced so far, in bytes: each file is announced once.
    begun: Mutex<HashMap<String, u64>>,
    /// Description and size in bytes of the current upload.
    upload: Mutex<(String, u64)>,
}

impl Reporter {
    pub(crate) fn new(on_progress: Option<OnProgress>) -> Self {
        Self {
            on_progress,
            ..Self::default()
        }
    }

    fn report(&self, file: &str, done: u64, total: u64) {
        if let Some(report) = &self.on_progress {
            report(&HubProgress { file, done, total });
        }
    }

    fn download(&self, event: &DownloadEvent) {
        let DownloadEvent::Progress { files } = event else {
            return;
        };
        for file in files {
            let complete = file.status == FileStatus::Complete;
            let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
            if !complete
                && begun
                    .insert(file.filename.clone(), file.total_bytes)
                    .is_none()
            {
                let (file, bytes) = (&file.filename, file.total_bytes);
                info!(file, bytes, "downloading from the Hub");
            }
            drop(begun);
            self.report(&file.filename, file.bytes_completed, file.total_bytes);
        }
    }

    fn upload(&self, event: &UploadEvent) {
        let mut upload = self.upload.lock().unwrap_or_else(PoisonError::into_inner);
        let done = match event {
            UploadEvent::Start {
                total_files,
                total_bytes,
            } => {
                *upload = (format!("{total_files} files"), *total_bytes);
                info!(
                    files = total_files,
                    bytes = total_bytes,
                    "uploading to the Hub"
                );
                0
            }
            UploadEvent::Progress {
                bytes_completed, ..
            } => *bytes_completed,
            UploadEvent::Committing => return,
            UploadEvent::Complete => upload.1,
        };
        let (what, total) = upload.clone();
        drop(upload);
        self.report(&what, done.min(total), total);
    }
}

impl ProgressHandler for Reporter {
    fn on_progress(&self, event: &ProgressEvent) {
        match event {
            ProgressEvent::Download(event) => self.download(event),
            ProgressEvent::Upload(event) => self.upload(event),
        }
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter").finish_non_exhaustive()
    }
}
