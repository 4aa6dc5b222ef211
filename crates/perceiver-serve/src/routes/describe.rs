//! `/health`, `/metrics`, `/model` and `/openapi.json`: what describes the server.

use std::sync::{Arc, LazyLock};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

use crate::http::json::{self, Json};
use crate::metrics::MEDIA_TYPE;
use crate::state::AppState;

/// Whether the server takes requests: 503 once it is being stopped, so that a load balancer sends no
/// more.
pub(crate) async fn health(State(state): State<Arc<AppState>>) -> Response {
    if state.is_stopping() {
        let stopping = Json(Health { status: "stopping" });
        return (StatusCode::SERVICE_UNAVAILABLE, stopping).into_response();
    }
    Json(Health { status: "ok" }).into_response()
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
}

pub(crate) async fn metrics(State(state): State<Arc<AppState>>) -> Response {
    ([(header::CONTENT_TYPE, MEDIA_TYPE)], state.metrics.text()).into_response()
}

pub(crate) async fn model(State(state): State<Arc<AppState>>) -> Response {
    json::of_bytes(state.model.clone())
}

/// The description of the API, with the version of this program.
static OPENAPI: LazyLock<Bytes> = LazyLock::new(|| {
    let text = include_str!("../../templates/openapi.json");
    let mut document: Value = serde_json::from_str(text).unwrap_or_default(); // a test reads it
    document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    document.to_string().into()
});

pub(crate) async fn openapi() -> Response {
    json::of_bytes(OPENAPI.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_description_is_json_with_the_version() {
        let document: Value = serde_json::from_slice(&OPENAPI).unwrap();
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
        for path in ["/predict", "/model", "/health", "/metrics", "/openapi.json"] {
            assert!(document["paths"][path].is_object(), "{path}");
        }
    }
}
