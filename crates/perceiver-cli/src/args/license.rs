//! Parses license identifiers of the Hub.

/// Parses a license identifier of the Hub: lowercase words with hyphens.
pub(crate) fn license(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
    if !text.is_empty() && text.chars().all(allowed) {
        return Ok(text.to_owned());
    }
    Err("expected an identifier such as mit, apache-2.0 or cc-by-4.0".to_owned())
}
