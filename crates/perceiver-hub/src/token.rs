//! Access tokens: lookup, and removal from messages.

use std::path::PathBuf;

use perceiver_files::read_text;

/// Returns the token of the environment, in the lookup order of `hf-hub`: `HF_TOKEN`, the file at
/// `HF_TOKEN_PATH`, the file that `hf auth login` writes.
pub fn from_env() -> Option<String> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if set("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some() {
        return None;
    }
    let read = |path: PathBuf| Some(read_text(&path).ok()?.trim().to_owned());
    set("HF_TOKEN")
        .or_else(|| read(set("HF_TOKEN_PATH")?.into()).filter(|token| !token.is_empty()))
        .or_else(|| read(hf_hub::hf_home().join("token")).filter(|token| !token.is_empty()))
}

/// Removes access tokens from `text`, which a server may quote in its errors: the given one, and
/// anything that looks like one.
///
/// ```
/// let quoted = "Bearer hf_AbC123 may not read this";
/// assert_eq!(perceiver_hub::without_tokens(quoted, None), "Bearer <token> may not read this");
/// ```
pub fn without_tokens(text: &str, token: Option<&str>) -> String {
    let text = match token.filter(|token| !token.is_empty()) {
        Some(token) => text.replace(token, "<token>"),
        None => text.to_owned(),
    };
    let mut pieces = text.split("hf_");
    let mut clean = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let rest = piece.trim_start_matches(|c: char| c.is_ascii_alphanumeric());
        if is_tokens_rest(&piece[..piece.len() - rest.len()]) {
            clean.push_str("<token>");
            clean.push_str(rest);
        } else {
            clean.push_str("hf_");
            clean.push_str(piece);
        }
    }
    clean
}

/// Returns whether a word after `hf_` makes it a token, unlike in the name `hf_hub`: a real one is
/// long and of both cases.
fn is_tokens_rest(word: &str) -> bool {
    let of_a_name = |byte: u8| byte.is_ascii_lowercase();
    word.len() >= 16 || !word.bytes().all(of_a_name)
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
        let lower = format!("hf_{}", "abcdefgh".repeat(4));
        assert_eq!(without_tokens(&lower, None), "<token>");
    }

    #[test]
    fn names_are_not_tokens() {
        let line = "DEBUG hf_hub::retry: request succeeded";
        assert_eq!(without_tokens(line, None), line);
    }
}
