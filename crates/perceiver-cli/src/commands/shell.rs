//! What the shell and `man` read about this program.

pub(crate) mod completions;
pub(crate) mod man;
