//! What the handlers of requests share.

use std::sync::Arc;

use bytes::Bytes;
use perceiver_train::Predictor;
use tokio::sync::{Semaphore, watch};

use crate::config::ServeConfig;
use crate::http::connection::Phase;
use crate::inference::decode::DecodeStage;
use crate::inference::queue::Queue;
use crate::metrics::Metrics;

/// What the handlers of requests share.
pub(crate) struct AppState {
    pub(crate) config: ServeConfig,
    pub(crate) predictor: Arc<Predictor>,
    pub(crate) decode: Arc<DecodeStage>,
    pub(crate) queue: Queue,
    /// The kibibytes of bodies that may still be buffered.
    pub(crate) body_kib: Arc<Semaphore>,
    pub(crate) metrics: Metrics,
    /// The answer to `/model`.
    pub(crate) model: Bytes,
    pub(crate) phase: watch::Receiver<Phase>,
}

impl AppState {
    /// Whether the server is being stopped.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.phase.borrow() > Phase::Running
    }
}
