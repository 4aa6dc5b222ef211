//! What the Hub's refusals mean and what to do about them.

use std::error::Error;

use hf_hub::HFError;

use crate::error::HubError;
use crate::repository::Repository;
use crate::token::without_tokens;

/// What was to be done when the Hub refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Read,
    Write,
}

/// Whether there was no answer at all.
pub(crate) fn is_unreachable(error: &HFError) -> bool {
    matches!(error, HFError::Request { source, .. } if source.is_connect() || source.is_timeout() || source.is_request())
}

/// Whether an answer ended before its time, or is not what it should be.
pub(crate) fn is_cut_short(error: &HFError) -> bool {
    match error {
        HFError::Request { source, .. } => source.is_body() || source.is_decode(),
        HFError::MalformedResponse { .. } => true,
        _ => false,
    }
}

/// The HTTP status of a refusal; 0 where it is none.
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
    /// A refusal by the Hub, with what to do about it.
    pub(crate) fn refused(&self, error: &HFError, purpose: Purpose) -> HubError {
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

    /// The error in words, without tokens.
    pub(crate) fn finding(&self, error: &HFError) -> String {
        without_tokens(&in_words(error), self.token())
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
        (429, ..) => "wait a while, or set HF_TOKEN, since the limits for known users are higher",
        (500.., ..) => "try again later",
        (_, Purpose::Read, HFError::Request { .. }) => {
            "without a network, load it once on a machine with one, copy its cache directory here and set HF_HUB_OFFLINE=1"
        }
        (_, Purpose::Write, HFError::Request { .. }) => {
            "nothing was changed there that a second try would not mend; try again"
        }
        (_, _, HFError::CacheLockTimeout { .. }) => "wait for the other process that downloads it",
        _ => "check HF_ENDPOINT and the cache directory",
    }
}

/// The error in words; of a connection that failed, the cause at the bottom, such as a name that was not found.
fn in_words(error: &HFError) -> String {
    let HFError::Request { source, url } = error else {
        return error.to_string();
    };
    let mut cause: &dyn Error = source;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let url = url.as_deref().unwrap_or("the server");
    format!("no whole answer from {url}: {cause}")
}
