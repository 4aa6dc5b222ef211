//! The page at `/`: static files of the program, which load nothing from elsewhere.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

/// A file of the page.
#[derive(Clone, Copy)]
pub(crate) struct Asset {
    media_type: &'static str,
    text: &'static str,
}

/// The files by path.
pub(crate) const ASSETS: [(&str, Asset); 3] = [
    (
        "/",
        Asset {
            media_type: "text/html; charset=utf-8",
            text: include_str!("../../templates/page.html"),
        },
    ),
    (
        "/page.css",
        Asset {
            media_type: "text/css; charset=utf-8",
            text: include_str!("../../templates/page.css"),
        },
    ),
    (
        "/page.js",
        Asset {
            media_type: "text/javascript; charset=utf-8",
            text: include_str!("../../templates/page.js"),
        },
    ),
];

/// Answers with a file.
pub(crate) fn answer(asset: Asset) -> Response {
    let media_type = HeaderValue::from_static(asset.media_type);
    ([(header::CONTENT_TYPE, media_type)], asset.text).into_response()
}
