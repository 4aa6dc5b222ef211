//! `multipart/form-data`: each part is an image.

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream;
use multer::Multipart;

use crate::http::api_error::ApiError;
use crate::upload::{Upload, require_some};

/// Returns the images of a form. An image has the name of its file, or else of its field.
///
/// # Errors
/// When the form is malformed, or has no image or more than `most`.
pub(crate) fn images(boundary: &str, body: Bytes, most: usize) -> Result<Vec<Upload>, ApiError> {
    let parse = parse(boundary, body, most);
    // All bytes are there, so there is nothing to wait for.
    let parsed = parse.now_or_never();
    let images = parsed.unwrap_or_else(|| Err(malformed("a part without end")))?;
    require_some(images, most)
}

async fn parse(boundary: &str, body: Bytes, most: usize) -> Result<Vec<Upload>, ApiError> {
    let body = stream::iter([Ok::<_, std::convert::Infallible>(body)]);
    let mut form = Multipart::new(body, boundary);
    let mut images = Vec::new();
    while let Some(field) = form.next_field().await.map_err(malformed)? {
        if images.len() == most {
            return Err(ApiError::ImageCount {
                most,
                found: "more".to_string(),
            });
        }
        let name = field.file_name().or(field.name()).unwrap_or("image");
        let name = format!("{}{name}", if name.is_empty() { "image" } else { "" });
        images.push(Upload::new(&name, field.bytes().await.map_err(malformed)?));
    }
    Ok(images)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn malformed(finding: impl ToString) -> ApiError {
    ApiError::BodyFormat {
        expected: "multipart/form-data",
        finding: finding.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn form(parts: &[(&str, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (headers, content) in parts {
            body.extend_from_slice(format!("--B\r\n{headers}\r\n\r\n").as_bytes());
            body.extend_from_slice(content);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"--B--\r\n");
        body
    }

    const CAT: &str = "Content-Disposition: form-data; name=\"image\"; filename=\"cat.jpg\"";

    #[test]
    fn every_part_is_an_image_with_the_name_of_its_file() {
        let field = "Content-Disposition: form-data; name=\"second\"";
        let images = images("B", form(&[(CAT, b"one"), (field, b"two")]).into(), 2).unwrap();
        let found: Vec<_> = images
            .iter()
            .map(|image| (image.name.as_str(), &image.bytes[..]))
            .collect();
        assert_eq!(found, [("cat.jpg", &b"one"[..]), ("second", b"two")]);
    }

    #[test]
    fn forms_without_images_or_with_too_many_are_refused() {
        let none = images("B", form(&[]).into(), 2).unwrap_err();
        assert!(matches!(none, ApiError::ImageCount { .. }), "{none}");
        let three = form(&[(CAT, b"1"), (CAT, b"2"), (CAT, b"3")]);
        let error = images("B", three.into(), 2).unwrap_err();
        assert_eq!(
            error.to_string(),
            "body: expected 1 to 2 images, found more"
        );
    }

    #[test]
    fn truncated_forms_are_refused() {
        let whole = form(&[(CAT, b"one"), (CAT, b"two")]);
        for end in 0..whole.len() - 4 {
            let error = images("B", whole[..end].to_vec().into(), 9).unwrap_err();
            assert!(
                matches!(error, ApiError::BodyFormat { .. }) || end == 0,
                "{end}: {error}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_content_comes_back_as_it_was(
            contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..4),
        ) {
            prop_assume!(contents.iter().all(|content| !content.windows(5).any(|five| five == b"\r\n--B")));
            let parts: Vec<_> = contents.iter().map(|content| (CAT, &content[..])).collect();
            let images = images("B", form(&parts).into(), 4).unwrap();
            let found: Vec<_> = images.iter().map(|image| image.bytes.to_vec()).collect();
            prop_assert_eq!(found, contents);
        }

        /// Flips a byte of a form.
        #[test]
        fn damaged_forms_are_parsed_or_refused(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut body = form(&[(CAT, b"one"), (CAT, b"two")]);
            let at = at.index(body.len());
            body[at] = byte;
            let _ = images("B", body.into(), 9);
        }
    }
}
