//! HTTP: connections, who may ask, errors as JSON, and what every answer has.

pub(crate) mod access;
pub(crate) mod answer;
pub(crate) mod api_error;
pub(crate) mod connection;
pub(crate) mod json;
pub(crate) mod linger;
