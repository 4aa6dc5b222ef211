//! Routes: which handler answers which path.

pub(crate) mod describe;
pub(crate) mod page;
pub(crate) mod predict;

use std::future::{Ready, ready};
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::error::{Result, ServeError};
use crate::http::access::{require_host, require_token};
use crate::http::answer::complete;
use crate::http::api_error::ApiError;
use crate::state::AppState;

/// Returns the service of a server. From the outside in: the log and headers of every answer, the
/// name that was asked for, other origins, the token, the handler.
///
/// # Errors
/// When an allowed origin is none.
pub(crate) fn router(state: &Arc<AppState>) -> Result<Router> {
    let with_token = Router::new()
        .route(
            "/predict",
            post(predict::predict).fallback(|request: Request| method("POST", &request)),
        )
        .route(
            "/model",
            get(describe::model).fallback(|request: Request| method("GET", &request)),
        )
        .route(
            "/metrics",
            get(describe::metrics).fallback(|request: Request| method("GET", &request)),
        )
        .route_layer(from_fn_with_state(Arc::clone(state), require_token));
    let mut open = Router::new();
    for (path, asset) in page::ASSETS {
        open = open.route(
            path,
            get(move || ready(page::answer(asset)))
                .fallback(|request: Request| method("GET", &request)),
        );
    }
    let router = open
        .route(
            "/health",
            get(describe::health).fallback(|request: Request| method("GET", &request)),
        )
        .route(
            "/openapi.json",
            get(describe::openapi).fallback(|request: Request| method("GET", &request)),
        )
        .merge(with_token)
        .fallback(not_found)
        .with_state(Arc::clone(state));
    let router = match cors(&state.config.allowed_origins)? {
        Some(cors) => router.layer(cors),
        None => router,
    };
    Ok(router
        .layer(from_fn_with_state(Arc::clone(state), require_host))
        .layer(from_fn_with_state(Arc::clone(state), complete)))
}

async fn not_found(request: Request) -> ApiError {
    let path = request.uri().path().chars().take(200).collect();
    ApiError::NotFound { path }
}

fn method(expected: &'static str, request: &Request) -> Ready<ApiError> {
    let found = request.method().as_str().chars().take(30).collect();
    ready(ApiError::Method { expected, found })
}

/// Returns what lets pages of other origins use the server.
fn cors(origins: &[String]) -> Result<Option<CorsLayer>> {
    if origins.is_empty() {
        return Ok(None);
    }
    let wrong = |origin: &String| ServeError::Setting {
        setting: "allowed_origins",
        expected: "an origin such as https://pictures.example, without a path, or *".to_string(),
        found: origin.clone(),
    };
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        let values = origins.iter().map(|origin| {
            let (scheme, rest) = origin.split_once("://").ok_or_else(|| wrong(origin))?;
            let is_origin =
                ["http", "https"].contains(&scheme) && !rest.is_empty() && !rest.contains('/');
            let value = origin.parse::<HeaderValue>().ok().filter(|_| is_origin);
            value.ok_or_else(|| wrong(origin))
        });
        AllowOrigin::list(values.collect::<Result<Vec<_>>>()?)
    };
    let request_id = HeaderName::from_static("x-request-id");
    Ok(Some(
        CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods([Method::GET, Method::POST])
            .allow_headers([
                header::CONTENT_TYPE,
                header::AUTHORIZATION,
                request_id.clone(),
            ])
            .expose_headers([request_id, header::RETRY_AFTER]),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_checked() {
        assert!(cors(&[]).unwrap().is_none());
        for origin in ["*", "https://pictures.example", "http://localhost:3000"] {
            assert!(cors(&[origin.to_string()]).unwrap().is_some(), "{origin}");
        }
        for origin in [
            "",
            "pictures.example",
            "https://",
            "https://a/b",
            "ftp://a",
            "https://a\n",
        ] {
            assert!(cors(&[origin.to_string()]).is_err(), "{origin:?}");
        }
    }
}
