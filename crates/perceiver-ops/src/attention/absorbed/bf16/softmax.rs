//! Softmax with dropout of some rows of logits, and its gradient: from `f32` to bf16.

use half::bf16;

use crate::attention::dropout_mask::{self, Mask};
use crate::cpu::simd::{self, vectorised};
use crate::half_precision::wide;
use crate::matmul::rounding::rounded;

vectorised! {
    /// Computes the probabilities of every row of logits, with the sign bit set for dropped ones, in
    /// rows of `marked` that are `row_stride` values apart, and each row's sum after dropout.
    pub(super) fn softmax(mask: Option<Mask>, first_row: usize, logits: &mut [f32], sums: &mut [f32], marked: &mut [bf16], row_stride: usize) {
        let keys = logits.len() / sums.len();
        for (index, (logits, sum)) in logits.chunks_mut(keys).zip(sums).enumerate() {
            let max = simd::max(logits);
            for logit in logits.iter_mut() {
                *logit = simd::exp(*logit - max);
            }
            simd::scale(logits, simd::sum(logits).recip());
            *sum = 1.0;
            if let Some(mask) = mask {
                mask.mark(first_row + index, keys, 0, logits);
                *sum = simd::sum_of(logits, dropout_mask::kept);
            }
            for (marked, logit) in marked[index * row_stride..].iter_mut().zip(logits) {
                *marked = rounded(*logit);
            }
        }
    }

    /// Copies rows of `keys` probabilities with 0 for dropped ones, from rows that are `from` values
    /// apart to rows that are `to` values apart.
    pub(super) fn without_dropped(marked: &[bf16], from: usize, left: &mut [bf16], to: usize, keys: usize) {
        for (marked, left) in marked.chunks(from).zip(left.chunks_mut(to)) {
            for (left, marked) in left[..keys].iter_mut().zip(marked) {
                *left = bf16::from_bits(if marked.to_bits() >> 15 == 1 { 0 } else { marked.to_bits() });
            }
        }
    }

    /// Turns a row of `dy v^T` into the gradient of the logits: `sum` is that of the products of
    /// probabilities and their gradients, `of_sum` the gradient of the probabilities' sum.
    pub(super) fn logit_gradients(factor: f32, sum: f32, of_sum: f32, marked: &[bf16], products: &[f32], gradients: &mut [bf16]) {
        for (gradient, (marked, product)) in gradients.iter_mut().zip(marked.iter().zip(products)) {
            let bits = u32::from(marked.to_bits());
            let probability = f32::from_bits((bits & 0x7fff) << 16);
            let left = if bits >> 15 == 1 { 0.0 } else { probability };
            *gradient = rounded(left * (factor * (product + of_sum)) - probability * sum);
        }
    }

    /// Returns the dot product of two rows.
    pub(super) fn dot(a: &[bf16], b: &[bf16]) -> f32 {
        let mut sums = [0f32; simd::LANES];
        let (chunks_a, rest_a) = a.as_chunks::<{ simd::LANES }>();
        let (chunks_b, rest_b) = b.as_chunks::<{ simd::LANES }>();
        for (a, b) in chunks_a.iter().zip(chunks_b) {
            for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
                *sum += wide(*a) * wide(*b);
            }
        }
        for (sum, (a, b)) in sums.iter_mut().zip(rest_a.iter().zip(rest_b)) {
            *sum += wide(*a) * wide(*b);
        }
        sums.into_iter().sum()
    }
}
