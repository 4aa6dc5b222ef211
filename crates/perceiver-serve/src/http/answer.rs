//! What every answer has: a request id, headers for browsers, a line in the log, and metrics.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument;
use uuid::Uuid;

use crate::http::api_error::ApiError;
use crate::state::AppState;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest request id that is taken from a request.
const MAX_ID: usize = 64;

/// What a page may load: files of this server, and images that it has itself.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data: blob:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Headers of every answer.
const HEADERS: [(HeaderName, &str); 7] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(self), microphone=(), geolocation=()",
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (HeaderName::from_static("x-frame-options"), "DENY"),
];

/// Answers a request, and logs and counts it.
pub(crate) async fn complete(
    State(state): State<Arc<AppState>>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers());
    let method = request.method().clone();
    // Only known paths are labels of metrics: others would be without number.
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or("other", |path| path.as_str()).to_string();
    let path: String = request.uri().path().chars().take(200).collect();
    let span = tracing::info_span!("request", request = %id.to_str().unwrap_or_default());
    let mut response = next.run(request).instrument(span.clone()).await;

    let status = response.status();
    let seconds = started.elapsed().as_secs_f64();
    state.metrics.answered(&route, status.as_u16(), seconds);
    let error = response.extensions_mut().remove::<ApiError>();
    span.in_scope(|| {
        let (status, ms) = (status.as_u16(), format!("{:.1}", 1e3 * seconds));
        match &error {
            None => tracing::info!(%method, path, status, ms, "answered"),
            Some(error) if status >= 500 => {
                tracing::error!(%method, path, status, ms, %error, "failed");
            }
            Some(error) => tracing::info!(%method, path, status, ms, %error, "refused"),
        }
    });
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    headers.insert(REQUEST_ID, id);
    if state.is_stopping() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Returns the request's own id if it is short and plain, otherwise a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_plain = |value: &&HeaderValue| {
        let mut bytes = value.as_bytes().iter();
        (1..=MAX_ID).contains(&value.len())
            && bytes.all(|&byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let given = headers.get(&REQUEST_ID).filter(is_plain).cloned();
    given.unwrap_or_else(|| {
        let id = Uuid::new_v4().simple().to_string();
        HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static("none")) // hexadecimal
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_request_ids_are_kept_and_others_replaced() {
        let id = |given: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_str(given).unwrap());
            request_id(&headers).to_str().unwrap().to_string()
        };
        assert_eq!(id("order-7.a_B"), "order-7.a_B");
        for replaced in ["", "a b", "a\tb", "<script>", &"x".repeat(65)] {
            assert_eq!(id(replaced).len(), 32, "{replaced:?}");
        }
        assert_ne!(id(""), id(""));
    }
}
