//! A warning of the watchdog: what was found, its likely cause, and the flags that cure it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A problem of a run, which continues all the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// The number of steps done when the problem was found.
    pub step: u64,
    /// The kind of problem.
    pub kind: WarningKind,
    /// The finding, with numbers.
    pub finding: String,
    /// The most likely cause.
    pub cause: String,
    /// The flags that fix it.
    pub cure: String,
}

/// The kinds of problems; each is reported once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WarningKind {
    /// The loss stays at chance level.
    StuckLoss,
    /// Gradients are close to zero.
    VanishedGradients,
    /// Gradients are far larger than before.
    ExplodedGradients,
    /// An attention layer attends to single tokens.
    SaturatedAttention,
    /// A cross-attention layer attends to all tokens equally and has not learned to choose.
    UniformAttention,
    /// All latents are equal.
    EqualLatents,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            finding,
            cause,
            cure,
            ..
        } = self;
        write!(f, "{finding}; likely cause: {cause}; fix: {cure}")
    }
}
