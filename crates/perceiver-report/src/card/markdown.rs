//! Escapes text for Markdown.

/// Escapes `text` for a paragraph or a table cell: every character special to Markdown or HTML is
/// escaped, and lines are joined.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '\n' | '\r' | '\t' => safe.push(' '),
            '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '(' | ')' | '#' | '+' | '!' | '|'
            | '~' | '$' => safe.extend(['\\', character]),
            _ if character.is_control() => {}
            _ => safe.push(character),
        }
    }
    safe
}

/// Wraps `text` unchanged in a code block whose fence is longer than any run of backticks in it.
pub(crate) fn fenced(language: &str, text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}{language}\n{}\n{fence}", text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped() {
        let name = "<img src=x>|a*b_c`d`\n# [x](http://y)";
        assert_eq!(
            escaped(name),
            "&lt;img src=x&gt;\\|a\\*b\\_c\\`d\\` \\# \\[x\\]\\(http://y\\)"
        );
    }

    #[test]
    fn fences_are_longer_than_those_in_the_content() {
        assert_eq!(fenced("toml", "a\n```\n"), "````toml\na\n```\n````");
        assert_eq!(fenced("", "a"), "```\na\n```");
    }
}
