//! Files that anyone may have made, read the same way everywhere: regular ones alone, and up to a limit.

mod regular_file;

pub use regular_file::{MAX_TABLE_BYTES, MAX_TEXT_BYTES, open_regular, read_limited, read_regular};
