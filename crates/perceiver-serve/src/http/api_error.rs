//! Errors of requests, as JSON: `{"error": {"code", "message", "next"}}`.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use perceiver_data::DataError;
use perceiver_report::ReportError;
use perceiver_train::TrainError;
use serde::Serialize;

use crate::http::json::Json;

/// The reason why a request is refused. Messages say what was expected and found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("path: expected one of the API, found {path}")]
    NotFound { path: String },
    #[error("method: expected {expected}, found {found}")]
    Method {
        expected: &'static str,
        found: String,
    },
    #[error("Authorization: expected the bearer token of this server, found {found}")]
    Unauthorized { found: &'static str },
    #[error("Host: expected a name of this machine, found {found}")]
    Host { found: String },
    #[error("query: {finding}")]
    Query { finding: String },
    #[error("Content-Type: expected {EXPECTED_TYPES}, found {found}")]
    ContentType { found: String },
    #[error("Content-Encoding: expected none, found {found}")]
    ContentEncoding { found: String },
    #[error("body: expected at most {most} bytes, found {found}")]
    BodyTooLarge { most: u64, found: String },
    #[error("body: expected all of it within {seconds} s, found {found} bytes")]
    BodyTimeout { seconds: u64, found: usize },
    #[error("body: expected all of it, found: {finding}")]
    BodyIncomplete { finding: String },
    #[error("body: expected {expected}, found {finding}")]
    BodyFormat {
        expected: &'static str,
        finding: String,
    },
    #[error("body: expected 1 to {most} images, found {found}")]
    ImageCount { most: usize, found: String },
    #[error("{finding}")]
    Image { finding: String },
    #[error("{name} is too large: expected at most {most} pixels, found {width} x {height}")]
    TooManyPixels {
        name: String,
        most: u64,
        width: usize,
        height: usize,
    },
    #[error("{finding}")]
    Attention { finding: String },
    #[error("queue: expected room for {wanted}, found it full")]
    QueueFull { wanted: String },
    #[error("connections: expected fewer than {most}, found as many")]
    Connections { most: usize },
    #[error("time: expected an answer within {seconds} s, found none")]
    Timeout { seconds: u64 },
    #[error("{finding}")]
    Model { finding: String },
}

const EXPECTED_TYPES: &str =
    "multipart/form-data, application/json, image/* or application/octet-stream";

/// The form of the errors in answers.
#[derive(Serialize)]
struct Body<'a> {
    error: Fields<'a>,
}

#[derive(Serialize)]
struct Fields<'a> {
    code: &'static str,
    message: &'a str,
    next: &'static str,
}

impl ApiError {
    /// Returns the status, the code for programs, and what to do next.
    pub(crate) fn parts(&self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::NotFound { .. } => (S::NOT_FOUND, "not_found", "see /openapi.json for all paths"),
            Self::Method { .. } => (
                S::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "use the method that Allow names",
            ),
            Self::Unauthorized { .. } => (
                S::UNAUTHORIZED,
                "unauthorized",
                "send the header Authorization: Bearer TOKEN, with the token that the server was started with",
            ),
            Self::Host { .. } => (
                S::MISDIRECTED_REQUEST,
                "unknown_host",
                "ask for localhost or 127.0.0.1, or start the server with --allow-host NAME",
            ),
            Self::Query { .. } => (
                S::BAD_REQUEST,
                "invalid_query",
                "use top_k=N, attention=true or attention=false, or no query",
            ),
            Self::ContentType { .. } => (
                S::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_content_type",
                "send a form with files (curl -F image=@cat.jpg), or an image as it is with Content-Type: image/jpeg",
            ),
            Self::ContentEncoding { .. } => (
                S::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_content_encoding",
                "send the body without compression",
            ),
            Self::BodyTooLarge { .. } => (
                S::PAYLOAD_TOO_LARGE,
                "body_too_large",
                "send fewer or smaller images; /model has the limits",
            ),
            Self::BodyTimeout { .. } => (
                S::REQUEST_TIMEOUT,
                "body_timeout",
                "send the body faster, or a smaller image",
            ),
            Self::BodyIncomplete { .. } => (
                S::BAD_REQUEST,
                "incomplete_body",
                "send the whole body that the headers announce",
            ),
            Self::BodyFormat { .. } => (
                S::BAD_REQUEST,
                "malformed_body",
                "see /openapi.json for the forms of a body",
            ),
            Self::ImageCount { .. } => (
                S::BAD_REQUEST,
                "image_count",
                "send at least one image, and more than fit in several requests",
            ),
            Self::Image { .. } => (
                S::UNPROCESSABLE_ENTITY,
                "not_an_image",
                "send a whole PNG, JPEG, WebP, BMP, GIF or TIFF file",
            ),
            Self::TooManyPixels { .. } => (
                S::PAYLOAD_TOO_LARGE,
                "too_many_pixels",
                "send a smaller image; the model sees few pixels of it anyway",
            ),
            Self::Attention { .. } => (
                S::UNPROCESSABLE_ENTITY,
                "no_attention",
                "ask without attention=true",
            ),
            Self::QueueFull { .. } => (
                S::TOO_MANY_REQUESTS,
                "queue_full",
                "send the request again after the time in Retry-After",
            ),
            Self::Connections { .. } => (
                S::TOO_MANY_REQUESTS,
                "too_many_connections",
                "use fewer connections, or connect again after the time in Retry-After",
            ),
            Self::Timeout { .. } => (
                S::SERVICE_UNAVAILABLE,
                "timeout",
                "send the request again after the time in Retry-After",
            ),
            Self::Model { .. } => (
                S::INTERNAL_SERVER_ERROR,
                "model_failed",
                "see the log of the server by the request id",
            ),
        }
    }

    /// Returns the error as JSON.
    pub(crate) fn json(&self) -> String {
        let (_, code, next) = self.parts();
        let message = &self.to_string();
        let error = Fields {
            code,
            message,
            next,
        };
        serde_json::to_string(&Body { error }).unwrap_or_default() // no map keys, so it cannot fail
    }

    /// Returns the error of an image that cannot be read.
    pub(crate) fn of_image(error: &TrainError) -> Self {
        let finding = error.to_string();
        match error {
            TrainError::Data(DataError::TooManyPixels {
                path,
                height,
                width,
                needed: _,
                limit,
            }) => Self::TooManyPixels {
                name: path.display().to_string(),
                most: limit / 3,
                width: *width as usize,
                height: *height as usize,
            },
            TrainError::Data(_) => Self::Image { finding },
            _ => Self::Model { finding },
        }
    }

    /// Returns the error of an attention map that cannot be computed.
    pub(crate) fn of_attention(error: &ReportError) -> Self {
        let finding = error.to_string();
        match error {
            ReportError::NoAttention => Self::Attention { finding },
            _ => Self::Model { finding },
        }
    }

    /// Whether the same request may succeed later.
    fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::QueueFull { .. } | Self::Connections { .. } | Self::Timeout { .. }
        )
    }
}

/// The seconds after which a refused request may succeed.
pub(crate) const RETRY_AFTER: &str = "1";

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code, next) = self.parts();
        let message = &self.to_string();
        let error = Fields {
            code,
            message,
            next,
        };
        let mut response = (status, Json(Body { error })).into_response();
        let headers = response.headers_mut();
        if self.is_temporary() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        match &self {
            Self::Unauthorized { .. } => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::Method { expected, .. } => {
                headers.insert(header::ALLOW, HeaderValue::from_static(expected));
            }
            // What is left of such a body is not read.
            Self::BodyTooLarge { .. } | Self::BodyTimeout { .. } => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_json_with_what_to_do_next() {
        let error = ApiError::BodyTooLarge {
            most: 10,
            found: "11".to_string(),
        };
        let json: serde_json::Value = serde_json::from_str(&error.json()).unwrap();
        assert_eq!(json["error"]["code"], "body_too_large");
        assert_eq!(
            json["error"]["message"],
            "body: expected at most 10 bytes, found 11"
        );
        assert!(json["error"]["next"].as_str().unwrap().contains("/model"));
        assert_eq!(error.into_response().headers()["connection"], "close");
    }

    #[test]
    fn temporary_errors_say_when_to_come_again() {
        let full = ApiError::QueueFull {
            wanted: "1 image".to_string(),
        };
        let response = full.into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "1");
    }
}
