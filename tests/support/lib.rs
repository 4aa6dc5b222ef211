//! What the integration tests share: a server on loopback, checksums, and the program to be tested.

pub mod digest;
pub mod http;
pub mod program;
pub mod run;
