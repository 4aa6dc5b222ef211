//! Attention shapes: batch, heads, queries, keys, widths, and memory layout of the heads.

use candle_core::{Result, bail};

use super::{Attention, KEY_BLOCK};
use crate::cpu::gemm::Matrix;
use crate::matmul::right::Products;

/// The sizes of an attention, validated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    pub(crate) batch: usize,
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    pub(crate) heads: usize,
    /// Number of key and value heads: `heads`, or 1 that all heads share.
    pub(crate) kv_heads: usize,
    /// Width of a head's queries and keys.
    pub(crate) width: usize,
    /// Width of a head's values.
    pub(crate) value_width: usize,
    pub(crate) scale: f32,
    /// Whether each query's output ends in the sum of every head's probabilities after dropout and
    /// a 1: the factors of the value and output biases.
    pub(crate) append_sums: bool,
    /// How the CPU multiplies.
    pub(crate) products: Products,
}

impl Geometry {
    pub(crate) fn new(
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
            append_sums: false,
            products: Products::F32,
        })
    }

    pub(crate) fn query_row(&self) -> usize {
        self.heads * self.width
    }

    pub(crate) fn key_row(&self) -> usize {
        self.kv_heads * self.width
    }

    pub(crate) fn value_row(&self) -> usize {
        self.kv_heads * self.value_width
    }

    /// Returns the number of output values per query.
    pub(crate) fn output_width(&self) -> usize {
        self.heads * self.value_width + if self.append_sums { self.heads + 1 } else { 0 }
    }

    /// Returns the number of values per query and head that the backward pass needs. If all keys
    /// are one block, these are the probabilities, with the sign bit set for dropped ones; else the
    /// logarithm of the sum of exponentials, from which probabilities are recomputed. The layout is
    /// `[heads, queries, kept_width]`.
    pub(crate) fn kept_width(&self) -> usize {
        if self.keys <= KEY_BLOCK { self.keys } else { 1 }
    }

    /// Returns the key and value head for a query head.
    pub(crate) fn kv_head(&self, head: usize) -> usize {
        if self.kv_heads == 1 { 0 } else { head }
    }
}

/// Returns the submatrix of `rows` rows and `columns` columns from `column` on, in rows of
/// `row_stride` values.
pub(crate) fn part(
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
