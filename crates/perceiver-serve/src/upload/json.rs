//! JSON bodies: `{"image": "BASE64"}` or `{"images": ["BASE64", ...]}`; `data:` URLs are base64 too.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::http::api_error::ApiError;
use crate::limits::MOST_IMAGES;
use crate::upload::{Upload, require_some};

/// Returns the images of a JSON body, named `image` or by their index.
///
/// # Errors
/// When the JSON or the base64 is malformed, or there is no image or more than `most`.
pub(crate) fn images(body: &[u8], most: usize) -> Result<Vec<Upload>, ApiError> {
    let document: Document = serde_json::from_slice(body).map_err(malformed)?;
    let images = match document {
        Document {
            image: Some(image),
            images: None,
        } => vec![upload("image", &image)?],
        Document {
            image: None,
            images: Some(Images(images)),
        } => {
            if images.len() > most {
                return Err(ApiError::ImageCount {
                    most,
                    found: images.len().to_string(),
                });
            }
            let named = images.iter().enumerate();
            let uploads = named.map(|(index, image)| upload(&format!("images[{index}]"), image));
            uploads.collect::<Result<_, _>>()?
        }
        Document {
            image: Some(_),
            images: Some(_),
        } => return Err(malformed("both image and images")),
        Document {
            image: None,
            images: None,
        } => return Err(malformed("neither image nor images")),
    };
    require_some(images, most)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn malformed(finding: impl ToString) -> ApiError {
    ApiError::BodyFormat {
        expected: r#"{"image": "BASE64"} or {"images": ["BASE64", ...]}"#,
        finding: finding.to_string(),
    }
}

fn upload(name: &str, text: &str) -> Result<Upload, ApiError> {
    let text = match text.strip_prefix("data:") {
        Some(url) => url.split_once(',').map_or("", |(_, data)| data),
        None => text,
    };
    let bytes = STANDARD
        .decode(text)
        .map_err(|error| ApiError::BodyFormat {
            expected: "images in base64",
            finding: format!("{name}: {error}"),
        })?;
    Ok(Upload::new(name, bytes.into()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    image: Option<String>,
    images: Option<Images>,
}

/// A list that ends with an error rather than grow without bound.
struct Images(Vec<String>);

impl<'de> Deserialize<'de> for Images {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Bounded)
    }
}

struct Bounded;

impl<'de> Visitor<'de> for Bounded {
    type Value = Images;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MOST_IMAGES} texts")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Images, A::Error> {
        let mut images = Vec::new();
        while let Some(image) = list.next_element()? {
            if images.len() == MOST_IMAGES {
                return Err(serde::de::Error::invalid_length(MOST_IMAGES + 1, &self));
            }
            images.push(image);
        }
        Ok(Images(images))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn images_are_named_by_their_place() {
        let one = images(br#"{"image": "Y2F0"}"#, 1).unwrap();
        assert_eq!(one, [Upload::new("image", "cat".into())]);
        let two = images(br#"{"images": ["Y2F0", "data:image/png;base64,ZG9n"]}"#, 2).unwrap();
        assert_eq!(two[1], Upload::new("images[1]", "dog".into()));
    }

    #[test]
    fn everything_else_is_refused_with_what_was_found() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let in_images = format!(r#"{{"images": {deep}}}"#);
        let many = format!(r#"{{"images": [{}""]}}"#, r#""","#.repeat(100_000));
        for (body, finding) in [
            ("", "EOF"),
            ("{}", "neither"),
            ("[]", "invalid length"),
            (r#"{"image": "Y2F0", "images": []}"#, "both"),
            (r#"{"images": []}"#, "found none"),
            (r#"{"images": ["", "", ""]}"#, "found 3"),
            (r#"{"image": "Y2F"}"#, "image: Invalid"),
            (r#"{"images": ["Y2F0", "!"]}"#, "images[1]: Invalid"),
            (r#"{"image": 7}"#, "invalid type"),
            (r#"{"image": "Y2F0", "x": 1}"#, "unknown field"),
            (r#"{"image": "Y2F0", "image": "Y2F0"}"#, "duplicate field"),
            (r#"{"image": "Y2F0"} more"#, "trailing"),
            (&deep, "invalid"),
            (&in_images, "invalid type"),
            (&many, "at most 256"),
            (r#"{"image": "data:nothing"}"#, ""),
        ] {
            match images(body.as_bytes(), 2) {
                Err(error) => assert!(error.to_string().contains(finding), "{finding}: {error}"),
                Ok(images) => assert!(images[0].bytes.is_empty(), "{body}"),
            }
        }
        assert!(images(b"{\"image\": \"\xff\"}", 1).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_come_back_from_base64(
            contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..4),
        ) {
            let texts: Vec<String> = contents.iter().map(|content| STANDARD.encode(content)).collect();
            let body = serde_json::json!({"images": texts}).to_string();
            let found: Vec<_> = images(body.as_bytes(), 4).unwrap().iter().map(|image| image.bytes.to_vec()).collect();
            prop_assert_eq!(found, contents);
        }
    }
}
