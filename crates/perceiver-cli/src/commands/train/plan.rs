//! The plan of a run: recipe, directory, ranks, and where it starts.

use std::time::Instant;

use perceiver_train::{Placement, Recipe, RunDirectory};

/// The starting point of a run.
#[derive(Clone, Copy)]
pub(crate) enum StartFrom {
    Anew,
    State,
    Previous,
}

/// The plan of a run.
pub(crate) struct Plan {
    pub(crate) recipe: Recipe,
    pub(crate) run: RunDirectory,
    pub(crate) placement: Placement,
    pub(crate) from: StartFrom,
    /// The new number of epochs, if the run is extended.
    pub(crate) epochs: Option<usize>,
    /// The start of the time budget.
    pub(crate) since: Instant,
}
