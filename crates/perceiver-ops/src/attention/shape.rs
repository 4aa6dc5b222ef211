//! The sizes of an attention and where its heads lie in memory.

use candle_core::{Result, bail};

use super::Attention;
use crate::gemm::Matrix;

/// Sizes that fit together, checked once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub(super) batch: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) heads: usize,
    /// Heads of keys and values: `heads`, or 1 that all share.
    pub(super) kv_heads: usize,
    /// Width of a head's queries and keys.
    pub(super) width: usize,
    /// Width of a head's values.
    pub(super) value_width: usize,
    pub(super) scale: f32,
    pub(super) append_sums: bool,
}

impl Geometry {
    pub(super) fn new(
        queries: &[usize],
        keys: &[usize],
        values: &[usize],
        how: Attention,
    ) -> Result<Self> {
        let misfit = || {
            format!(
                "attention of {} heads: shapes {queries:?}, {keys:?} and {values:?} do not fit: expected queries \
                 [batch, n, heads * width], keys [batch, m, kv_heads * width] and values [batch, m, kv_heads * \
                 value_width], none empty, where kv_heads is 1 or {0}",
                how.heads
            )
        };
        let (&[batch, n, inner], &[key_batch, m, key_width], &[value_batch, value_m, all_values]) =
            (queries, keys, values)
        else {
            bail!("{}", misfit());
        };
        let heads = how.heads;
        let width = inner.checked_div(heads).unwrap_or(0);
        let kv_heads = key_width.checked_div(width).unwrap_or(0);
        let fits = [key_batch, value_batch, value_m] == [batch, batch, m]
            && [width * heads, kv_heads * width] == [inner, key_width]
            && (kv_heads == 1 || kv_heads == heads)
            && all_values.is_multiple_of(kv_heads)
            && ![batch, n, m, all_values].contains(&0);
        if !fits {
            bail!("{}", misfit());
        }
        Ok(Self {
            batch,
            queries: n,
            keys: m,
            heads,
            kv_heads,
            width,
            value_width: all_values / kv_heads,
            scale: how.scale as f32,
            append_sums: how.append_sums,
        })
    }

    pub(super) fn query_row(&self) -> usize {
        self.heads * self.width
    }

    pub(super) fn key_row(&self) -> usize {
        self.kv_heads * self.width
    }

    pub(super) fn value_row(&self) -> usize {
        self.kv_heads * self.value_width
    }

    /// Values of one query's output.
    pub(super) fn output_width(&self) -> usize {
        self.heads * self.value_width + if self.append_sums { self.heads } else { 0 }
    }

    /// The head of keys and values that `head` of the queries reads.
    pub(super) fn kv_head(&self, head: usize) -> usize {
        if self.kv_heads == 1 { 0 } else { head }
    }
}

/// The matrix of `rows` rows and `columns` columns from `column` on, in rows of `row_stride` values.
pub(super) fn part(
    values: &[f32],
    rows: usize,
    row_stride: usize,
    column: usize,
    columns: usize,
) -> Matrix<'_> {
    Matrix {
        values: &values[column..],
        rows,
        columns,
        row_stride,
        column_stride: 1,
    }
}
