//! Conversion of models from and to the formats of other programs.

#[cfg(feature = "export")]
pub(crate) mod export;
pub(crate) mod import_keras;
