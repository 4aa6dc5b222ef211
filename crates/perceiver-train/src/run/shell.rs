//! Shell quoting of paths in commands that are printed to be copied.

use std::ffi::OsStr;
use std::fmt::Write as _;

/// Quotes a path or name as one shell word; safe text stays as it is. Anything that would not
/// survive being displayed and copied, such as control characters and bytes that are not text, is
/// escaped as in `$'\x1b'`, which bash, zsh and ksh read.
///
/// ```
/// use perceiver_train::shell_quoted;
///
/// assert_eq!(shell_quoted("runs/photos-1"), "runs/photos-1");
/// assert_eq!(shell_quoted("my runs/it's; rm -r"), r"'my runs/it'\''s; rm -r'");
/// assert_eq!(shell_quoted("a\nb"), r"$'a\x0ab'");
/// ```
pub fn shell_quoted(name: impl AsRef<OsStr>) -> String {
    let name = name.as_ref();
    match name.to_str() {
        Some(text) if is_plain(text) => text.to_string(),
        Some(text) if text.chars().all(is_shown) => format!("'{}'", text.replace('\'', r"'\''")),
        _ => in_bytes(name.as_encoded_bytes()),
    }
}

/// Returns whether a shell reads the text as one word, unchanged.
fn is_plain(text: &str) -> bool {
    let plain = |c: char| c.is_alphanumeric() || "/._-:@%+=,".contains(c);
    !text.is_empty() && text.chars().all(plain)
}

/// Returns whether terminals display the character as it is.
fn is_shown(c: char) -> bool {
    c.is_alphanumeric() || c.is_ascii_punctuation() || c == ' '
}

fn in_bytes(bytes: &[u8]) -> String {
    let mut quoted = "$'".to_string();
    for &byte in bytes {
        match byte {
            b'\'' | b'\\' => quoted.extend(['\\', byte as char]),
            b' '..=b'~' => quoted.push(byte as char),
            _ => {
                let _ = write!(quoted, "\\x{byte:02x}"); // writing to a string cannot fail
            }
        }
    }
    quoted.push('\'');
    quoted
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    /// Runs a shell and returns the words that it reads.
    fn words(shell: &str, line: &str) -> Option<Vec<u8>> {
        let script = format!("printf '%s\\0' {line}");
        let output = Command::new(shell).arg("-c").arg(script).output().ok()?;
        output.status.success().then_some(output.stdout)
    }

    #[test]
    fn quoted_names_are_one_shell_word() {
        for name in [
            "",
            "a b",
            "it's",
            "$(touch x)`touch y`",
            "; rm -rf ~ & #",
            "~/a",
            "*?[a]{b,c}!",
            "\\\"",
            "schönes Bild",
        ] {
            let actual = words("sh", &shell_quoted(name)).unwrap();
            assert_eq!(actual, format!("{name}\0").into_bytes(), "{name:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn any_quoted_name_round_trips_through_bash(name in proptest::collection::vec(1_u8.., 0..24)) {
            let quoted = shell_quoted(OsStr::from_bytes(&name));
            prop_assert!(!quoted.contains(char::is_control));
            // Some machines have no bash.
            if let Some(mut actual) = words("bash", &quoted) {
                prop_assert_eq!(actual.pop(), Some(0));
                prop_assert_eq!(&actual[..], &name[..], "{}", quoted);
            }
        }
    }
}
