//! `--flip-average` of the commands that predict with a trained model.

/// Test-time flip.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct FlipAverageFlag {
    /// Average the probabilities of each image and its mirror image, or not [default: as in
    /// training].
    #[arg(long, visible_alias = "test-time-flip", value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    pub(crate) flip_average: Option<bool>,
}
