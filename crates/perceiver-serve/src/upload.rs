//! Uploads: the bodies of prediction requests, and the encoded images in them.

pub(crate) mod body;
pub(crate) mod json;
pub(crate) mod multipart;

use axum::http::{HeaderMap, HeaderValue, header};
use bytes::Bytes;
use mime::Mime;

use crate::http::api_error::ApiError;

/// An encoded image, and its name in the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Upload {
    pub(crate) name: String,
    pub(crate) bytes: Bytes,
}

/// The longest name that is kept of an image.
const MAX_NAME: usize = 200;

impl Upload {
    fn new(name: &str, bytes: Bytes) -> Self {
        let name = name.chars().take(MAX_NAME).collect();
        Self { name, bytes }
    }
}

/// The form of a body, by its `Content-Type`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `multipart/form-data` with this boundary: each part is an image.
    Multipart(String),
    /// A JSON object with images in base64.
    Json,
    /// The bytes of one image.
    Raw,
}

impl Form {
    /// Returns the form that the headers of a request announce; without a type, the bytes of an
    /// image.
    ///
    /// # Errors
    /// When the type is another one, or a form has no boundary.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        require_no_encoding(headers)?;
        let Some(value) = headers.get(header::CONTENT_TYPE) else {
            return Ok(Self::Raw);
        };
        let text = String::from_utf8_lossy(value.as_bytes());
        let refused = || ApiError::ContentType {
            found: text.chars().take(MAX_NAME).collect(),
        };
        let mime: Mime = text.parse().map_err(|_| refused())?;
        match (mime.type_().as_str(), mime.subtype().as_str()) {
            ("multipart", "form-data") => match multer::parse_boundary(&*text) {
                Ok(boundary) => Ok(Self::Multipart(boundary)),
                Err(error) => Err(ApiError::BodyFormat {
                    expected: "a form with a boundary",
                    finding: error.to_string(),
                }),
            },
            ("application", "json") => Ok(Self::Json),
            ("image", _) | ("application", "octet-stream") => Ok(Self::Raw),
            _ => Err(refused()),
        }
    }

    /// Returns the images of a body, at least one and at most `most`.
    ///
    /// # Errors
    /// When the body does not have this form, or another number of images.
    pub(crate) fn images(&self, body: Bytes, most: usize) -> Result<Vec<Upload>, ApiError> {
        match self {
            Self::Multipart(boundary) => multipart::images(boundary, body, most),
            Self::Json => json::images(&body, most),
            Self::Raw => Ok(vec![Upload::new("image", body)]),
        }
    }
}

/// Checks that a body is not compressed: images are, and what a compressed body becomes has no limit.
fn require_no_encoding(headers: &HeaderMap) -> Result<(), ApiError> {
    let encodings = headers.get_all(header::CONTENT_ENCODING).into_iter();
    match encodings
        .map(HeaderValue::as_bytes)
        .find(|value| !value.eq_ignore_ascii_case(b"identity"))
    {
        None => Ok(()),
        Some(value) => {
            let found = String::from_utf8_lossy(value)
                .chars()
                .take(MAX_NAME)
                .collect();
            Err(ApiError::ContentEncoding { found })
        }
    }
}

/// Checks that there are images.
fn require_some(images: Vec<Upload>, most: usize) -> Result<Vec<Upload>, ApiError> {
    if images.is_empty() {
        return Err(ApiError::ImageCount {
            most,
            found: "none".to_string(),
        });
    }
    Ok(images)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn form(content_type: &str) -> Result<Form, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        Form::of(&headers)
    }

    #[test]
    fn the_content_type_determines_the_form() {
        assert_eq!(Form::of(&HeaderMap::new()), Ok(Form::Raw));
        for raw in [
            "image/png",
            "image/jpeg",
            "IMAGE/WEBP",
            "image/x-anything",
            "application/octet-stream",
        ] {
            assert_eq!(form(raw), Ok(Form::Raw), "{raw}");
        }
        assert_eq!(form("application/json; charset=utf-8"), Ok(Form::Json));
        let multipart = form("multipart/form-data; boundary=abc");
        assert_eq!(multipart, Ok(Form::Multipart("abc".to_string())));
        for refused in [
            "text/html",
            "application/x-www-form-urlencoded",
            "multipart/mixed; boundary=x",
            "image",
            "",
            "/",
        ] {
            let error = form(refused).unwrap_err();
            assert!(
                matches!(error, ApiError::ContentType { .. }),
                "{refused}: {error}"
            );
        }
        let error = form("multipart/form-data").unwrap_err();
        assert!(matches!(error, ApiError::BodyFormat { .. }), "{error}");
    }

    proptest! {
        /// No body of any form panics, and none has more images than allowed.
        #[test]
        fn arbitrary_bodies_are_parsed_or_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            most in 1_usize..5,
        ) {
            for form in [Form::Raw, Form::Json, Form::Multipart("x".to_string())] {
                if let Ok(images) = form.images(bytes.clone().into(), most) {
                    prop_assert!((1..=most).contains(&images.len()));
                }
            }
        }

        #[test]
        fn arbitrary_content_types_are_known_or_refused(bytes in prop::collection::vec(32_u8..=255, 0..80)) {
            let mut headers = HeaderMap::new();
            if let Ok(value) = axum::http::HeaderValue::from_bytes(&bytes) {
                headers.insert(header::CONTENT_TYPE, value);
                let _ = Form::of(&headers);
            }
        }

        #[test]
        fn a_raw_body_is_the_image(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let images = Form::Raw.images(bytes.clone().into(), 1).unwrap();
            prop_assert_eq!(&images[0].bytes[..], &bytes[..]);
        }
    }
}
