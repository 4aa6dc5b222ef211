//! Direct and absorbed attention; selects the form with fewer multiply-adds.

/// The form in which an attention is computed. Both forms are the same function of the same
/// parameters, up to rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionForm {
    /// Queries, keys and values, as in the formula.
    Direct,
    /// Key and value projections absorbed into query and output projections: fewer multiply-adds
    /// with wide heads.
    Absorbed,
}

/// The sizes of an attention from `queries` to `tokens` vectors, all of `width`, with `heads` heads
/// of `head_width`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionCost {
    pub(crate) queries: usize,
    pub(crate) tokens: usize,
    pub(crate) width: usize,
    pub(crate) heads: usize,
    pub(crate) head_width: usize,
    /// Number of reads of the same tokens; their keys and values are projected once.
    pub(crate) reads: usize,
    /// Whether an output projection follows the heads.
    pub(crate) projects_output: bool,
}

impl AttentionCost {
    /// Returns the multiply-adds per image over all reads, saturating at `u64::MAX`, which the form
    /// not chosen may exceed.
    pub(crate) fn multiply_adds(&self, form: AttentionForm) -> u64 {
        let [queries, tokens, width, heads, head_width, reads] = [
            self.queries,
            self.tokens,
            self.width,
            self.heads,
            self.head_width,
            self.reads,
        ]
        .map(|size| size as u128);
        let inner = heads * head_width;
        let per_read = |inner: u128, projections: u128| {
            projections * queries * width * inner + 2 * queries * tokens * inner
        };
        let products = match form {
            AttentionForm::Direct => {
                let projections = if self.projects_output { 2 } else { 1 };
                2 * tokens * width * inner + reads * per_read(inner, projections)
            }
            AttentionForm::Absorbed => reads * per_read(heads * width, 2),
        };
        u64::try_from(products).unwrap_or(u64::MAX)
    }

    /// Returns the form with fewer multiply-adds.
    pub(crate) fn cheaper_form(&self) -> AttentionForm {
        let cost = |form| self.multiply_adds(form);
        if cost(AttentionForm::Absorbed) < cost(AttentionForm::Direct) {
            AttentionForm::Absorbed
        } else {
            AttentionForm::Direct
        }
    }
}
