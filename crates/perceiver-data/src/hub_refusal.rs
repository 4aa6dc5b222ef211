//! What the Hub's refusals mean and what to do about them.

use std::error::Error;
use std::path::Path;

use hf_hub::HFError;

use crate::error::DataError;
use crate::hub::HubDataset;

/// Whether there was no answer at all.
pub(crate) fn is_unreachable(error: &HFError) -> bool {
    matches!(error, HFError::Request { source, .. } if source.is_connect() || source.is_timeout() || source.is_request())
}

/// Whether an answer ended before its time.
pub(crate) fn is_cut_short(error: &HFError) -> bool {
    matches!(error, HFError::Request { source, .. } if source.is_body() || source.is_decode())
}

/// A data set that the cache would have to have.
pub(crate) fn not_cached(dataset: &HubDataset, cache: &Path, finding: &str) -> DataError {
    DataError::Hub {
        repo: dataset.repo.clone(),
        finding: format!("{finding} {} and no connection is allowed or possible", cache.display()),
        hint: "load it once with a network and without HF_HUB_OFFLINE, or copy the cache directory from a machine that has it".into(),
    }
}

/// A refusal by the Hub, with what to do about it.
pub(crate) fn refused(dataset: &HubDataset, error: &HFError) -> DataError {
    let status = match error {
        HFError::Http { context } => context.status.as_u16(),
        HFError::AuthRequired { .. } => 401,
        HFError::Forbidden { .. } => 403,
        HFError::RepoNotFound { .. }
        | HFError::RevisionNotFound { .. }
        | HFError::EntryNotFound { .. } => 404,
        HFError::RateLimited { .. } => 429,
        _ => 0,
    };
    let hint = match (status, error) {
        (401 | 403, _) => {
            "check the name; a private or gated repository needs a token in HF_TOKEN that may read it"
        }
        (404, _) => "check the name and the revision",
        (429, _) => "wait a while, or set HF_TOKEN, since the limits for known users are higher",
        (500.., _) => "try again later",
        (_, HFError::Request { .. }) => {
            "without a network, load it once on a machine with one, copy its cache directory here and set HF_HUB_OFFLINE=1"
        }
        (_, HFError::CacheLockTimeout { .. }) => "wait for the other process that downloads it",
        _ => "check HF_ENDPOINT and the cache directory",
    };
    DataError::Hub {
        repo: dataset.repo.clone(),
        finding: without_tokens(&finding(error), dataset.access.token.as_deref()),
        hint: hint.into(),
    }
}

/// The error in words; of a connection that failed, the cause at the bottom, such as a name that was not found.
fn finding(error: &HFError) -> String {
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

/// `text` without access tokens, which a server may quote in its refusals: the one given, and whatever looks like one.
fn without_tokens(text: &str, token: Option<&str>) -> String {
    let text = match token.filter(|token| !token.is_empty()) {
        Some(token) => text.replace(token, "<token>"),
        None => text.to_owned(),
    };
    let mut pieces = text.split("hf_");
    let mut clean = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        clean.push_str("<token>");
        clean.push_str(piece.trim_start_matches(|c: char| c.is_ascii_alphanumeric()));
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_tokens_are_hidden() {
        let text = "token hf_AbC123 of x is invalid (secret)";
        assert_eq!(
            without_tokens(text, Some("secret")),
            "token <token> of x is invalid (<token>)"
        );
        assert_eq!(without_tokens("no token", Some("")), "no token");
    }
}
