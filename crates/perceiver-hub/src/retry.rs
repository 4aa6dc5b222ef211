//! Retries: truncated responses, and rate limits that say how long to wait.
//!
//! `hf-hub` itself retries a few times within seconds when a server is busy or a connection fails.
//! It neither waits as long as a server asks for nor retries a truncated response.

use std::thread;
use std::time::Duration;

use hf_hub::HFError;
use tracing::warn;

use crate::refusal::is_cut_short;
use crate::repository::Repository;

/// The maximum number of attempts.
pub(crate) const ATTEMPTS: usize = 3;

/// The longest automatic wait; the user decides on a longer one.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

impl Repository {
    /// Calls the Hub with retries.
    ///
    /// # Errors
    /// The error of the last attempt, or the first that a retry would not fix.
    pub(crate) fn persist<T>(
        &self,
        what: &str,
        mut attempt: impl FnMut() -> Result<T, HFError>,
    ) -> Result<T, HFError> {
        for _ in 1..ATTEMPTS {
            let error = match attempt() {
                Err(error) => error,
                done => return done,
            };
            let Some(wait) = wait_before_repeating(&error) else {
                return Err(error);
            };
            let finding = self.finding(&error);
            warn!("{what} again in {} s: {finding}", wait.as_secs());
            thread::sleep(wait);
        }
        attempt()
    }
}

fn wait_before_repeating(error: &HFError) -> Option<Duration> {
    match error {
        HFError::RateLimited { retry_after, .. } => {
            let wait = retry_after.unwrap_or(Duration::from_secs(1));
            (wait <= LONGEST_WAIT).then_some(wait)
        }
        HFError::Xet { .. } => Some(Duration::ZERO),
        error => is_cut_short(error).then_some(Duration::ZERO),
    }
}
