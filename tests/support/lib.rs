//! What the integration tests share: a server on loopback, checksums, and the program to be tested.

pub mod cas;
pub mod digest;
pub mod http;
pub mod hub;
pub mod program;
pub mod run;
pub mod tensors;
