//! Shared code of the integration tests: loopback servers, checksums, and the program under test.

pub mod browser;
pub mod cas;
pub mod digest;
pub mod http;
pub mod hub;
pub mod hub_program;
pub mod program;
pub mod run;
pub mod serving;
pub mod tensors;
