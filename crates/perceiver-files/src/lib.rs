//! Reads untrusted files safely: only regular files, only up to a limit, and text with any byte
//! order mark.
//!
//! Editors differ in what they write around the text: Notepad begins a file with a byte order mark,
//! and PowerShell's `>` writes UTF-16. [`read_text`] decodes both to plain UTF-8, and every reader
//! of such a file uses it. Line ends stay as they are: [`str::lines`], TOML and JSON accept `\r\n`.
//!
//! ```
//! let dir = tempfile::tempdir().unwrap();
//! let path = dir.path().join("classes.txt");
//! std::fs::write(&path, b"\xEF\xBB\xBFcat\r\ndog\r\n").unwrap();
//! let text = perceiver_files::read_text(&path)?;
//! assert_eq!(text.lines().collect::<Vec<_>>(), ["cat", "dog"]);
//! # Ok::<(), std::io::Error>(())
//! ```

mod regular_file;
mod text;

pub use regular_file::{MAX_TABLE_BYTES, MAX_TEXT_BYTES, open_regular, read_limited, read_regular};
pub use text::{decode_text, read_named_text, read_text};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDocTests;
