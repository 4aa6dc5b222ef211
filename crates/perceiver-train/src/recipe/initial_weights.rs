//! The checkpoint whose weights a run is initialized with, as a recipe names it.

use serde::{Deserialize, Serialize};

/// The checkpoint whose weights a run is initialized with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitialWeights {
    /// The location of the checkpoint, as the user gave it.
    pub checkpoint: String,
    /// The hash of its weights, by
    /// [`Checkpoint::weights_sha256`](crate::Checkpoint::weights_sha256); empty until the run
    /// starts.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sha256: String,
}
