//! Files that anyone may have made, read the same way everywhere: regular ones alone, up to a limit, and text whatever editor wrote it.
//!
//! Editors differ in what they put around the text. Notepad begins a file with a byte order mark, and PowerShell's `>` writes UTF-16. Both
//! are read as if they were plain UTF-8 by [`read_text`], which every reader of such a file goes through. Line ends stay as they are:
//! [`str::lines`], TOML and JSON take `\r\n` for what it is.
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
