//! Explains HTTP errors of the Hub, with remedies.

use std::error::Error;

use hf_hub::HFError;

use crate::error::HubError;
use crate::repository::{Purpose, Repository};
use crate::token::without_tokens;

/// Returns whether there was no response at all.
pub(crate) fn is_unreachable(error: &HFError) -> bool {
    matches!(error, HFError::Request { source, .. } if source.is_connect() || source.is_timeout() || source.is_request())
}

/// Returns whether a response was truncated or malformed.
pub(crate) fn is_cut_short(error: &HFError) -> bool {
    match error {
        HFError::Request { source, .. } => source.is_body() || source.is_decode(),
        HFError::MalformedResponse { .. } => true,
        _ => false,
    }
}

/// Returns the HTTP status of an error; 0 if it has none.
pub(crate) fn status(error: &HFError) -> u16 {
    match error {
        HFError::Http { context } => context.status.as_u16(),
        HFError::AuthRequired { .. } => 401,
        HFError::Forbidden { .. } => 403,
        HFError::RepoNotFound { .. }
        | HFError::RevisionNotFound { .. }
        | HFError::EntryNotFound { .. } => 404,
        HFError::Conflict { .. } => 409,
        HFError::RateLimited { .. } => 429,
        _ => 0,
    }
}

impl Repository {
    /// Converts an error of the Hub to [`HubError`], with a remedy.
    pub(crate) fn explain(&self, error: &HFError, purpose: Purpose) -> HubError {
        let (kind, repo) = (self.kind(), self.id().to_owned());
        let (finding, hint) = (self.finding(error), hint(error, purpose).to_owned());
        if is_unreachable(error) {
            return HubError::Unreachable {
                kind,
                repo,
                finding,
                hint,
            };
        }
        HubError::Refused {
            kind,
            repo,
            finding,
            hint,
        }
    }

    /// Describes the error in words, without tokens.
    pub(crate) fn finding(&self, error: &HFError) -> String {
        without_tokens(&describe(error), self.token())
    }
}

fn hint(error: &HFError, purpose: Purpose) -> &'static str {
    match (status(error), purpose, error) {
        (401 | 403, Purpose::Read, _) => {
            "check the name; a private or gated repository needs a token in HF_TOKEN that may read it"
        }
        (401 | 403, Purpose::Write, _) => {
            "set HF_TOKEN to a token with write access to this repository, or log in with `hf auth login`"
        }
        (404, ..) => {
            "check the name and the revision; a private repository needs a token in HF_TOKEN"
        }
        (429, ..) => "wait a while, or set HF_TOKEN, since rate limits are higher with a token",
        (500.., ..) => "try again later",
        (_, Purpose::Read, HFError::Request { .. }) => {
            "without a network, download it once on a machine with one, copy its cache directory here and set HF_HUB_OFFLINE=1"
        }
        (_, Purpose::Write, HFError::Request { .. }) => {
            "it is safe to try again: an incomplete upload leaves no commit"
        }
        (_, _, HFError::CacheLockTimeout { .. }) => "wait for the other process that downloads it",
        _ => "check HF_ENDPOINT and the cache directory",
    }
}

/// Describes the error in words; for a failed connection, by its root cause, such as an unknown
/// host name.
fn describe(error: &HFError) -> String {
    let HFError::Request { source, url } = error else {
        return error.to_string();
    };
    let mut cause: &dyn Error = source;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let url = url.as_deref().unwrap_or("the server");
    format!("no complete response from {url}: {cause}")
}
