//! What is tried again: answers that were cut short, and refusals that say how long to wait.
//!
//! `hf-hub` itself asks again where a server is busy or a connection cannot be made, a few times within seconds. It does not
//! wait as long as a server asks for, nor ask again for an answer that broke off.

use std::thread;
use std::time::Duration;

use hf_hub::HFError;
use tracing::warn;

use crate::refusal::is_cut_short;
use crate::repository::Repository;

/// How often something is tried before it is an error.
pub(crate) const ATTEMPTS: usize = 3;

/// A longer wait is for people to decide on.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

impl Repository {
    /// Does something with the Hub, several times if need be.
    ///
    /// # Errors
    /// The last attempt's, or the first that no repetition would mend.
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
