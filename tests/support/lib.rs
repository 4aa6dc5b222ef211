//! Under construction.

pub mod digest;
pub mod http;
