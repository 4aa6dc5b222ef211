//! Fixed-point weights of Pillow's resampling along one axis.
//!
//! They are computed in f64, normalized to a sum of one and rounded to [`PRECISION_BITS`] binary
//! places. Bytes times weights then add up in 32 bits: 8 bits for a byte and 2 for the overshoot of
//! negative weights and the sign.

use std::borrow::Cow;
use std::ops::Range;

use crate::transforms::pillow_resize::filter::{Kernel, PillowFilter};

/// Binary places of a weight.
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// A weight of one.
const ONE: i32 = 1 << PRECISION_BITS;

/// One half of a byte's step, with which a sum begins so that it is rounded.
const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// A sparse matrix `[output_len, input_len]` that resamples bytes. Lengths are at least 1.
pub(crate) struct Coefficients {
    input_len: usize,
    /// For each output, its first input and its range in `weights`.
    rows: Vec<(usize, Range<usize>)>,
    weights: Vec<i32>,
}

impl Coefficients {
    /// Computes the weights that resize `input_len` values to `output_len`.
    pub(crate) fn new(input_len: usize, output_len: usize, filter: PillowFilter) -> Self {
        let mut coefficients = Self {
            input_len,
            rows: Vec::with_capacity(output_len),
            weights: Vec::new(),
        };
        match filter.kernel() {
            Some(kernel) => coefficients.average(output_len, &kernel),
            None => coefficients.pick(output_len),
        }
        coefficients
    }

    /// Adds outputs that average inputs; when shrinking, the kernel is wider by the scale
    /// (anti-aliasing).
    fn average(&mut self, output_len: usize, kernel: &Kernel) {
        let scale = self.input_len as f64 / output_len as f64;
        let widening = scale.max(1.0);
        let radius = kernel.radius * widening;
        // Pillow multiplies by the reciprocal; a division can differ in the last bit.
        let narrowing = 1.0 / widening;
        let mut weights = Vec::new();
        for output in 0..output_len {
            let centre = (output as f64 + 0.5) * scale;
            // The conversion truncates as in C, and takes negative numbers to 0.
            let start = (centre - radius + 0.5) as usize;
            let end = ((centre + radius + 0.5) as usize).min(self.input_len);
            weights.clear();
            weights.extend(
                (start..end)
                    .map(|input| (kernel.weight)((input as f64 - centre + 0.5) * narrowing)),
            );
            let total: f64 = weights.iter().sum();
            if total != 0.0 {
                for weight in &mut weights {
                    *weight /= total;
                }
            }
            self.push(start, weights.iter().map(|&weight| fixed_point(weight)));
        }
    }

    /// Adds outputs that are the input at their centre.
    fn pick(&mut self, output_len: usize) {
        let scale = self.input_len as f64 / output_len as f64;
        // Pillow adds up the scale, which can differ from a product in the last bit.
        let mut centre = scale * 0.5;
        for _ in 0..output_len {
            let input = (centre as usize).min(self.input_len - 1);
            self.push(input, [ONE]);
            centre += scale;
        }
    }

    fn push(&mut self, first_input: usize, weights: impl IntoIterator<Item = i32>) {
        let begin = self.weights.len();
        self.weights.extend(weights);
        self.rows.push((first_input, begin..self.weights.len()));
    }

    /// Returns the first input of each output, and the weights from there on.
    fn rows(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let rows = self.rows.iter();
        rows.map(move |(first, range)| (*first, &self.weights[range.clone()]))
    }

    /// Resamples each row of `plane`, `[height, input_len]`, to `[height, output_len]`. An axis
    /// that keeps its length keeps its bytes.
    pub(crate) fn along_rows<'a>(&self, plane: &'a [u8]) -> Cow<'a, [u8]> {
        if self.rows.len() == self.input_len {
            return Cow::Borrowed(plane);
        }
        let height = plane.len() / self.input_len;
        let mut output = Vec::with_capacity(height * self.rows.len());
        for row in plane.chunks_exact(self.input_len) {
            output.extend(self.rows().map(|(first, weights)| {
                let pairs = row[first..].iter().zip(weights);
                let sum: i32 = pairs.map(|(&byte, weight)| i32::from(byte) * weight).sum();
                to_byte(sum + HALF)
            }));
        }
        Cow::Owned(output)
    }

    /// Resamples each column of `plane`, `[input_len, width]`, to `[output_len, width]`. An axis
    /// that keeps its length keeps its bytes.
    pub(crate) fn along_columns<'a>(&self, plane: &'a [u8], width: usize) -> Cow<'a, [u8]> {
        if self.rows.len() == self.input_len {
            return Cow::Borrowed(plane);
        }
        let mut output = Vec::with_capacity(self.rows.len() * width);
        let mut sums = vec![0; width];
        for (first, weights) in self.rows() {
            sums.fill(HALF);
            let rows = plane[first * width..].chunks_exact(width);
            for (row, weight) in rows.zip(weights) {
                for (sum, &byte) in sums.iter_mut().zip(row) {
                    *sum += i32::from(byte) * weight;
                }
            }
            output.extend(sums.iter().map(|&sum| to_byte(sum)));
        }
        Cow::Owned(output)
    }
}

/// Rounds a weight, halves away from zero.
fn fixed_point(weight: f64) -> i32 {
    let half = if weight < 0.0 { -0.5 } else { 0.5 };
    (half + weight * f64::from(ONE)) as i32
}

/// Cuts off the binary places and clips to a byte.
fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enlarging_by_two_matches_a_calculation_by_hand() {
        // Distances 0.25 and 1.25, then 0.25 and 0.75: 0.8671875, -0.0703125 and 0.2265625, divided
        // by their sums 0.796875 and 1.09375: -8.8, 20.7, 79.3, 108.8.
        let taps = Coefficients::new(2, 4, PillowFilter::Bicubic);
        assert_eq!(*taps.along_rows(&[0, 100]), [0, 21, 79, 109]);
        assert_eq!(*taps.along_columns(&[0, 100], 1), [0, 21, 79, 109]);
        assert_eq!(*taps.along_rows(&[255, 0]), [255, 202, 53, 0]);
    }

    #[test]
    fn shrinking_averages_and_rounds_halves_up() {
        for filter in [
            PillowFilter::Box,
            PillowFilter::Bilinear,
            PillowFilter::Bicubic,
        ] {
            let taps = Coefficients::new(2, 1, filter);
            assert_eq!(*taps.along_rows(&[0, 255]), [128], "{filter:?}");
        }
    }

    #[test]
    fn nearest_picks_the_input_at_the_centre() {
        let taps = Coefficients::new(5, 2, PillowFilter::Nearest);
        assert_eq!(*taps.along_rows(&[10, 20, 30, 40, 50]), [20, 40]);
        let taps = Coefficients::new(2, 5, PillowFilter::Nearest);
        assert_eq!(*taps.along_rows(&[10, 20]), [10, 10, 20, 20, 20]);
    }
}
