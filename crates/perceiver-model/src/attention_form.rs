//! The two ways to compute one attention, and which takes fewer products.

/// How an attention is computed. Both are the same function of the same parameters, up to rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionForm {
    /// Queries, keys and values as the formula has them.
    Direct,
    /// The projections of keys and values absorbed into those of queries and outputs: fewer products where heads are
    /// wide.
    Absorbed,
}

/// The sizes of an attention of `queries` vectors to `tokens` vectors, all of `width`, in `heads` heads of `head_width`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionCost {
    pub(crate) queries: usize,
    pub(crate) tokens: usize,
    pub(crate) width: usize,
    pub(crate) heads: usize,
    pub(crate) head_width: usize,
    /// How often the same tokens are read; their keys and values are projected once.
    pub(crate) reads: usize,
    /// Whether a projection follows the heads.
    pub(crate) projects_output: bool,
}

impl AttentionCost {
    /// Multiply-adds for one image and all reads together; at most the greatest `u64`, which the form not taken may exceed.
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

    /// The form with fewer multiply-adds.
    pub(crate) fn cheaper_form(&self) -> AttentionForm {
        let cost = |form| self.multiply_adds(form);
        if cost(AttentionForm::Absorbed) < cost(AttentionForm::Direct) {
            AttentionForm::Absorbed
        } else {
            AttentionForm::Direct
        }
    }
}
