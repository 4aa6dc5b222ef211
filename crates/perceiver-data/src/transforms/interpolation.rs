//! Bilinear interpolation along one axis as a sparse matrix: resize, flip and zoom, and their
//! products.
//!
//! A row has weights for a few neighbouring inputs. [`resample`](crate::resample) applies two such
//! matrices to the axes of an image.
//!
//! ```
//! use perceiver_data::Interpolation;
//!
//! let rows = Interpolation::resize(2, 4, false);
//! assert_eq!(rows.apply(&[0.0, 4.0]), [0.0, 1.0, 3.0, 4.0]);
//! let mirrored = Interpolation::flip(4).compose(&rows);
//! assert_eq!(mirrored.apply(&[0.0, 4.0]), [4.0, 3.0, 1.0, 0.0]);
//! ```

use crate::transforms::fit::{Fit, Window};

/// A sparse interpolation matrix `[output_len, input_len]`. Each row has weights for one short
/// range of inputs. Lengths are at least 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Interpolation {
    input_len: usize,
    /// The first input of each row.
    starts: Vec<usize>,
    /// The end of each row in `weights`; a row begins at the end of the previous one.
    ends: Vec<usize>,
    weights: Vec<f32>,
}

impl Interpolation {
    /// Creates linear interpolation to another length, with pixel centres at halves and the border
    /// value beyond the border: Keras's `Resizing` with `bilinear`.
    ///
    /// With `antialias`, an output of a shrunk axis averages over the inputs it covers, weighted by
    /// a triangle as wide as two outputs, as in `jax.image.resize` and PIL. It does not affect
    /// enlarging.
    pub fn resize(input_len: usize, output_len: usize, antialias: bool) -> Self {
        let whole = Fit::Stretch.window(input_len, input_len);
        Self::resize_window(whole, output_len, antialias)
    }

    /// Creates [`Interpolation::resize`] of a window of the axis: only inputs in the window count,
    /// and values outside the axis are zero.
    pub(crate) fn resize_window(window: Window, output_len: usize, antialias: bool) -> Self {
        let step = window.len as f64 / output_len as f64;
        let radius = if antialias { step.max(1.0) } else { 1.0 };
        let last = window.len as f64 - 1.0;
        let on_axis = |input: usize| {
            let input = input.checked_add_signed(window.start);
            input.filter(|input| *input < window.axis)
        };
        Self::from_rows(window.axis, output_len, |output, entries| {
            let centre = (output as f64 + 0.5) * step - 0.5;
            let start = (centre - radius).max(0.0).ceil() as usize;
            let end = (centre + radius).min(last).floor() as usize;
            // Cut off at the border and normalized to one, the triangle gives the border value
            // there.
            let weight = |input: usize| (1.0 - (input as f64 - centre).abs() / radius).max(0.0);
            let total: f64 = (start..=end).map(weight).sum();
            let weighted = (start..=end).map(|input| (input, (weight(input) / total) as f32));
            entries.extend(weighted.filter_map(|(input, weight)| Some((on_axis(input)?, weight))));
        })
    }

    /// Creates magnification about the middle: output `o` reads input `c + factor * (o - c)`,
    /// `c = (len - 1) / 2`, by linear interpolation. Beyond the border it reads the mirror image,
    /// border value first: Keras's `RandomZoom` with `bilinear` and `reflect`. A factor above 1
    /// shows more of the plane, smaller.
    pub fn zoom(len: usize, factor: f32) -> Self {
        let middle = (len as f64 - 1.0) / 2.0;
        Self::from_rows(len, len, |output, entries| {
            let input = middle + f64::from(factor) * (output as f64 - middle);
            let below = input.floor();
            let fraction = (input - below) as f32;
            entries.push((reflect(below, len), 1.0 - fraction));
            entries.push((reflect(below + 1.0, len), fraction));
        })
    }

    /// Creates a shift by whole pixels: output `o` reads input `o - by`, and zero beyond the
    /// border.
    pub fn shift(len: usize, by: isize) -> Self {
        Self::from_rows(len, len, |output, entries| {
            let input = output.checked_add_signed(by.saturating_neg());
            if let Some(input) = input.filter(|input| *input < len) {
                entries.push((input, 1.0));
            }
        })
    }

    /// Creates a reversal of the axis.
    pub fn flip(len: usize) -> Self {
        Self::from_rows(len, len, |output, entries| {
            entries.push((len - 1 - output, 1.0));
        })
    }

    /// Computes the matrix product `self * first`, which applies `first` first.
    ///
    /// # Panics
    /// When the output length of `first` is not the input length of `self`.
    #[must_use]
    pub fn compose(&self, first: &Self) -> Self {
        assert_eq!(
            first.output_len(),
            self.input_len,
            "the output length of `first` is the input length"
        );
        Self::from_rows(first.input_len, self.output_len(), |output, entries| {
            for (middle, outer) in self.row(output) {
                entries.extend(
                    first
                        .row(middle)
                        .map(|(input, inner)| (input, outer * inner)),
                );
            }
        })
    }

    /// Returns the input length.
    pub fn input_len(&self) -> usize {
        self.input_len
    }

    /// Returns the output length.
    pub fn output_len(&self) -> usize {
        self.starts.len()
    }

    /// Returns the inputs of an output with their weights.
    ///
    /// # Panics
    /// When `output` is out of range.
    pub fn row(&self, output: usize) -> impl Iterator<Item = (usize, f32)> {
        let begin = if output == 0 {
            0
        } else {
            self.ends[output - 1]
        };
        let weights = &self.weights[begin..self.ends[output]];
        (self.starts[output]..).zip(weights.iter().copied())
    }

    /// Multiplies the matrix by a vector of `input_len` numbers.
    ///
    /// # Panics
    /// When `input` has another length.
    pub fn apply(&self, input: &[f32]) -> Vec<f32> {
        let mut output = vec![0.0; self.output_len()];
        self.apply_to_row(input, &mut output);
        output
    }

    /// Builds the matrix from `(input, weight)` pairs in any order; weights of the same input add
    /// up.
    fn from_rows(
        input_len: usize,
        output_len: usize,
        mut row: impl FnMut(usize, &mut Vec<(usize, f32)>),
    ) -> Self {
        let mut taps = Self {
            input_len,
            starts: Vec::with_capacity(output_len),
            ends: Vec::with_capacity(output_len),
            weights: Vec::with_capacity(4 * output_len),
        };
        let mut entries = Vec::new();
        for output in 0..output_len {
            entries.clear();
            row(output, &mut entries);
            entries.retain(|&(_, weight)| weight != 0.0);
            let start = entries.iter().map(|&(input, _)| input).min().unwrap_or(0);
            let stop = entries
                .iter()
                .map(|&(input, _)| input + 1)
                .max()
                .unwrap_or(0);

            let begin = taps.weights.len();
            taps.weights.resize(begin + stop - start, 0.0);
            for &(input, weight) in &entries {
                taps.weights[begin + input - start] += weight;
            }
            taps.starts.push(start);
            taps.ends.push(taps.weights.len());
        }
        taps
    }

    /// Returns the first input and the weights of each row.
    fn rows(&self) -> impl Iterator<Item = (usize, &[f32])> {
        let begins = std::iter::once(&0).chain(&self.ends);
        let spans = begins
            .zip(&self.ends)
            .map(|(&begin, &end)| &self.weights[begin..end]);
        self.starts.iter().copied().zip(spans)
    }

    /// Applies the matrix to a row: `[input_len] -> [output_len]`.
    // Inlined into its callers, the compiler makes it slower: the loader by a tenth.
    #[inline(never)]
    pub(crate) fn apply_to_row(&self, input: &[f32], output: &mut [f32]) {
        assert_eq!(input.len(), self.input_len, "the row has the input length");
        for (out, (start, weights)) in output.iter_mut().zip(self.rows()) {
            let window = &input[start..start + weights.len()];
            *out = window
                .iter()
                .zip(weights)
                .map(|(value, weight)| value * weight)
                .sum();
        }
    }

    /// Applies the matrix to the first axis: `[input_len, width] -> [output_len, width]`, as
    /// weighted sums of whole rows.
    pub(crate) fn apply_to_rows(&self, input: &[f32], width: usize, output: &mut [f32]) {
        for (out, (start, weights)) in output.chunks_exact_mut(width).zip(self.rows()) {
            out.fill(0.0);
            let rows = input.chunks_exact(width).skip(start);
            for (row, weight) in rows.zip(weights) {
                for (sum, value) in out.iter_mut().zip(row) {
                    *sum += weight * value;
                }
            }
        }
    }
}

/// Returns the index of an integral `position` mirrored at both borders, with the border values
/// repeated.
fn reflect(position: f64, len: usize) -> usize {
    let period = 2.0 * len as f64;
    let around = position.rem_euclid(period);
    around.min(period - 1.0 - around) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn close(a: &[f32], b: &[f32]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5)
    }

    #[test]
    fn downscaling_without_antialias_reads_two_neighbours() {
        // Output 0 of 5 -> 2 has its centre at 0.75, output 1 at 3.25.
        let taps = Interpolation::resize(5, 2, false);
        assert_eq!(taps.apply(&[0.0, 4.0, 8.0, 12.0, 100.0]), [3.0, 34.0]);
    }

    #[test]
    fn downscaling_with_antialias_uses_a_wide_triangle_filter() {
        // 4 -> 2: weights 3, 3, 1 of 7 about the centre 0.5.
        let taps = Interpolation::resize(4, 2, true);
        assert!(close(&taps.apply(&[7.0, 0.0, 0.0, 0.0]), &[3.0, 0.0]));
        assert!(close(&taps.apply(&[0.0, 7.0, 0.0, 0.0]), &[3.0, 1.0]));
        assert!(close(&taps.apply(&[0.0, 0.0, 7.0, 0.0]), &[1.0, 3.0]));
    }

    #[test]
    fn shifting_pads_with_zeros() {
        let shifted = |by| Interpolation::shift(3, by).apply(&[1.0, 2.0, 3.0]);
        assert_eq!(shifted(1), [0.0, 1.0, 2.0]);
        assert_eq!(shifted(-2), [3.0, 0.0, 0.0]);
        assert_eq!(shifted(0), [1.0, 2.0, 3.0]);
        assert_eq!(shifted(isize::MIN), [0.0; 3]);
    }

    #[test]
    fn zooming_out_reflects_the_border() {
        // Middle 1.5; factor 3 reads -3, 0, 3, 6: mirrored 2, 0, 3, 1.
        let taps = Interpolation::zoom(4, 3.0);
        assert_eq!(
            taps.apply(&[10.0, 11.0, 12.0, 13.0]),
            [12.0, 10.0, 13.0, 11.0]
        );
    }

    #[test]
    fn zooming_in_interpolates_about_the_center() {
        // Middle 1; factor 0.5 reads 0.5, 1, 1.5.
        assert_eq!(
            Interpolation::zoom(3, 0.5).apply(&[0.0, 2.0, 8.0]),
            [1.0, 2.0, 5.0]
        );
    }

    proptest! {
        #[test]
        fn constants_are_preserved(from in 1_usize..60, to in 1_usize..60, antialias: bool, factor in 0.1_f32..4.0) {
            let resize = Interpolation::resize(from, to, antialias);
            let zoom = Interpolation::zoom(to, factor);
            for taps in [&resize, &zoom, &zoom.compose(&resize)] {
                let ones = taps.apply(&vec![1.0; taps.input_len()]);
                prop_assert!(close(&ones, &vec![1.0; to]));
            }
        }

        #[test]
        fn composition_equals_sequential_application(
            input in prop::collection::vec(-1.0_f32..1.0, 1..40),
            to in 1_usize..40,
            antialias: bool,
            factor in 0.5_f32..2.0,
        ) {
            let resize = Interpolation::resize(input.len(), to, antialias);
            let (flip, zoom) = (Interpolation::flip(to), Interpolation::zoom(to, factor));
            let at_once = zoom.compose(&flip).compose(&resize).apply(&input);
            let in_turn = zoom.apply(&flip.apply(&resize.apply(&input)));
            prop_assert!(close(&at_once, &in_turn));
        }

        /// A window inside the axis equals a crop of the axis; one that reaches beyond equals the
        /// axis padded with zeros.
        #[test]
        fn windows_crop_or_pad(
            input in prop::collection::vec(-10_f32..10.0, 1..40),
            other in 1_usize..60,
            to in 1_usize..30,
            antialias: bool,
        ) {
            for fit in [Fit::Stretch, Fit::Crop, Fit::Pad] {
                let window = fit.window(input.len(), other);
                let there: Vec<f32> = (0..window.len)
                    .map(|at| {
                        let at = at.checked_add_signed(window.start);
                        at.and_then(|at| input.get(at)).copied().unwrap_or(0.0)
                    })
                    .collect();
                let expected = Interpolation::resize(window.len, to, antialias).apply(&there);
                let taps = Interpolation::resize_window(window, to, antialias);
                prop_assert_eq!(taps.input_len(), input.len());
                prop_assert!(close(&taps.apply(&input), &expected));
            }
        }

        #[test]
        fn double_flips_and_unit_zooms_are_identities(len in 1_usize..50, antialias: bool) {
            let identity = Interpolation::resize(len, len, antialias);
            prop_assert_eq!(&Interpolation::flip(len).compose(&Interpolation::flip(len)), &identity);
            prop_assert_eq!(&Interpolation::zoom(len, 1.0), &identity);
        }

        #[test]
        fn antialias_has_no_effect_when_upscaling(from in 1_usize..30, more in 0_usize..30) {
            let plain = Interpolation::resize(from, from + more, false);
            prop_assert_eq!(plain, Interpolation::resize(from, from + more, true));
        }
    }
}
