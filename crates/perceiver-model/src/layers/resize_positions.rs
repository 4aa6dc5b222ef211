//! Resizes position embeddings to another grid of tokens.
//!
//! Both grids cover the whole image, so the centre of token `i` of `n` in a row is at
//! `(i + 0.5) / n` of the width. Interpolation is linear between centres, and extrapolation is
//! linear beyond the outermost, so a linear ramp on one grid is a linear ramp on the other.

use crate::layers::positions::coordinate_features;

/// Resizes values on a grid of `from` x `from` tokens, `[from * from, width]`, to `to` x `to`,
/// bilinearly.
pub(crate) fn resize(values: &[f32], from: usize, to: usize, width: usize) -> Vec<f32> {
    let steps = steps(from, to);
    let mut resized = Vec::with_capacity(to * to * width);
    for row in &steps {
        for column in &steps {
            for channel in 0..width {
                let at = |y: usize, x: usize| f64::from(values[(y * from + x) * width + channel]);
                let along = |y: usize| column.between(at(y, column.first), at(y, column.second));
                resized.push(row.between(along(row.first), along(row.second)) as f32);
            }
        }
    }
    resized
}

/// Refits the projection of Fourier features, `[width, 2 * (1 + 2 * bands)]`, to a grid of another
/// size.
///
/// The frequencies go up to the Nyquist frequency of the grid, so they differ there, and the same
/// weights would mean other positions. Positions are the sum of a row part and a column part. The
/// new weights of each part are those nearest to the old ones whose positions are the old ones,
/// resized.
pub(crate) fn refit(weights: &[f32], from: usize, to: usize, bands: usize) -> Vec<f32> {
    let count = 1 + 2 * bands;
    let [old, new] = [from, to].map(|side| coordinate_features(side, bands));
    let fit = Fit::new(&new, count);
    let mut refitted = Vec::with_capacity(weights.len());
    for part in weights.chunks(count) {
        let value = |features: &Vec<f32>| -> f64 {
            let products = features.iter().zip(part);
            products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let values: Vec<f64> = old.iter().map(value).collect();
        let wanted = steps(from, to);
        let wanted = wanted
            .iter()
            .map(|step| step.between(values[step.first], values[step.second]));
        let missing: Vec<f64> = wanted
            .zip(&new)
            .map(|(wanted, row)| wanted - value(row))
            .collect();
        let change = fit.solve(&missing);
        let changed = part.iter().zip(change);
        refitted.extend(changed.map(|(weight, change)| (f64::from(*weight) + change) as f32));
    }
    refitted
}

/// The position of a token's centre on another grid: `share` of the way from `first` to `second`,
/// or beyond.
struct Step {
    first: usize,
    second: usize,
    share: f64,
}

impl Step {
    fn between(&self, first: f64, second: f64) -> f64 {
        first + self.share * (second - first)
    }
}

/// Returns the positions of `to` token centres in a row of `from` tokens.
fn steps(from: usize, to: usize) -> Vec<Step> {
    let last = from.saturating_sub(2); // the last that has a successor
    (0..to)
        .map(|index| {
            let position = (index as f64 + 0.5) * from as f64 / to as f64 - 0.5;
            let first = (position.max(0.0) as usize).min(last);
            Step {
                first,
                second: (first + 1).min(from - 1),
                share: position - first as f64,
            }
        })
        .collect()
}

/// Ridge regression on the rows of a matrix: the smallest change of weights that approximates given
/// changes of the rows' outputs.
struct Fit {
    rows: Vec<Vec<f64>>,
    /// Lower triangular factor `L` with `L L^T = rows^T rows` plus the ridge.
    triangle: Vec<Vec<f64>>,
}

impl Fit {
    /// The ridge, relative to the mean of the diagonal: large enough to make every matrix regular,
    /// too small to show in `f32`.
    const RIDGE: f64 = 1e-9;

    fn new(rows: &[Vec<f32>], count: usize) -> Self {
        let rows: Vec<Vec<f64>> = rows
            .iter()
            .map(|row| row.iter().map(|&value| f64::from(value)).collect())
            .collect();
        let mut matrix = vec![vec![0.0; count]; count];
        for row in &rows {
            for (i, line) in matrix.iter_mut().enumerate() {
                for (j, value) in line.iter_mut().enumerate() {
                    *value += row[i] * row[j];
                }
            }
        }
        let trace: f64 = (0..count).map(|i| matrix[i][i]).sum();
        let ridge = Self::RIDGE * (trace / count as f64).max(1.0);
        for (i, line) in matrix.iter_mut().enumerate() {
            line[i] += ridge;
        }
        Self {
            rows,
            triangle: cholesky(matrix, ridge),
        }
    }

    fn solve(&self, targets: &[f64]) -> Vec<f64> {
        let count = self.triangle.len();
        let mut solution = vec![0.0; count];
        for (row, target) in self.rows.iter().zip(targets) {
            for (sum, value) in solution.iter_mut().zip(row) {
                *sum += value * target;
            }
        }
        let triangle = &self.triangle;
        for i in 0..count {
            let known: f64 = (0..i).map(|j| triangle[i][j] * solution[j]).sum();
            solution[i] = (solution[i] - known) / triangle[i][i];
        }
        for i in (0..count).rev() {
            let known: f64 = (i + 1..count).map(|j| triangle[j][i] * solution[j]).sum();
            solution[i] = (solution[i] - known) / triangle[i][i];
        }
        solution
    }
}

/// Computes the Cholesky factor of a symmetric matrix with no eigenvalue below `least`, up to
/// rounding.
fn cholesky(mut matrix: Vec<Vec<f64>>, least: f64) -> Vec<Vec<f64>> {
    for i in 0..matrix.len() {
        for j in 0..=i {
            let known: f64 = (0..j).map(|k| matrix[i][k] * matrix[j][k]).sum();
            let rest = matrix[i][j] - known;
            matrix[i][j] = if i == j {
                rest.max(least).sqrt()
            } else {
                rest / matrix[j][j]
            };
        }
    }
    matrix
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ramp `a + b * row + c * column`, rows and columns as fractions of the image.
    fn ramp(side: usize) -> Vec<f32> {
        let centre = |index: usize| (index as f32 + 0.5) / side as f32;
        let tokens = (0..side).flat_map(|row| (0..side).map(move |column| (row, column)));
        tokens
            .flat_map(|(row, column)| {
                let (y, x) = (centre(row), centre(column));
                [1.0 + 2.0 * y - 3.0 * x, 5.0 * x]
            })
            .collect()
    }

    fn assert_close(actual: &[f32], expected: &[f32], tolerance: f32) {
        assert_eq!(actual.len(), expected.len());
        for (actual, expected) in actual.iter().zip(expected) {
            assert!((actual - expected).abs() < tolerance, "{actual} {expected}");
        }
    }

    #[test]
    fn linear_ramps_are_preserved() {
        for (from, to) in [(4, 8), (8, 4), (5, 7), (7, 5), (2, 9), (4, 4)] {
            assert_close(&resize(&ramp(from), from, to, 2), &ramp(to), 1e-5);
        }
    }

    #[test]
    fn grids_of_the_same_size_are_unchanged() {
        let values: Vec<f32> = (0..48_u16)
            .map(|at| f32::from(at * 37 % 101) / 7.0)
            .collect();
        assert_eq!(resize(&values, 4, 4, 3), values);
    }

    #[test]
    fn halving_averages_four_tokens_and_single_tokens_are_replicated() {
        let values = [1.0, 2.0, 3.0, 6.0];
        assert_eq!(resize(&values, 2, 1, 1), [3.0]);
        assert_eq!(resize(&[7.0], 1, 3, 1), [7.0; 9]);
    }

    /// Computes the positions of a grid from `weights`, the row part and the column part.
    fn positions(weights: &[f32], side: usize, bands: usize) -> Vec<f32> {
        let features = coordinate_features(side, bands);
        let part = |part: &[f32]| {
            let row = |row: &Vec<f32>| row.iter().zip(part).map(|(a, b)| a * b).sum();
            features.iter().map(row).collect::<Vec<f32>>()
        };
        weights.chunks(1 + 2 * bands).flat_map(part).collect()
    }

    #[test]
    fn refitted_fourier_positions_equal_the_resized_ones() {
        let bands = 16;
        let weights: Vec<f32> = (0..2 * 33_u16)
            .map(|at| f32::from(at * 29 % 31) / 31.0 - 0.5)
            .collect();
        for (from, to) in [(8, 16), (8, 4), (8, 12), (16, 8)] {
            let refitted = refit(&weights, from, to, bands);
            let old = positions(&weights, from, bands);
            let expected: Vec<f32> = old
                .chunks(from)
                .flat_map(|values| {
                    let steps = steps(from, to);
                    let at = |index: usize| f64::from(values[index]);
                    let along = |step: &Step| step.between(at(step.first), at(step.second)) as f32;
                    steps.iter().map(along).collect::<Vec<_>>()
                })
                .collect();
            assert_close(&positions(&refitted, to, bands), &expected, 1e-3);
            // Without refitting, other frequencies would give other positions.
            let kept = positions(&weights, to, bands);
            assert!(kept.iter().zip(&expected).any(|(a, b)| (a - b).abs() > 0.1));
        }
        assert_close(&refit(&weights, 8, 8, bands), &weights, 1e-5);
    }
}
