//! Fourier positions of Perceiver IO: coordinates of a grid, and sines and cosines of them.
//!
//! The frequencies depend on the resolution of training, not on the grid. The arithmetic is that of
//! transformers in `f32`: angles reach 352, where one rounding changes a sine by up to 3e-5.

use std::f32::consts::PI;

/// Number of frequencies per direction.
const BANDS: usize = 64;

/// Width of a position: two coordinates, then sine and cosine of every frequency in both directions.
pub(crate) const WIDTH: usize = 2 + 4 * BANDS;

/// Computes the positions of a grid of `rows` x `columns`, `[rows * columns, WIDTH]`, row by row:
/// y, x, the sines of y and of x, the cosines of y and of x. Frequencies end at half of
/// `resolution`.
pub(crate) fn fourier_positions([rows, columns]: [usize; 2], resolution: usize) -> Vec<f32> {
    let (ys, xs) = (Axis::new(rows, resolution), Axis::new(columns, resolution));
    let mut positions = vec![0.0; rows * columns * WIDTH];
    for (token, position) in positions.chunks_exact_mut(WIDTH).enumerate() {
        let (row, column) = (token / columns, token % columns);
        position[0] = ys.coordinates[row];
        position[1] = xs.coordinates[column];
        let parts = [
            &ys.sines[row],
            &xs.sines[column],
            &ys.cosines[row],
            &xs.cosines[column],
        ];
        for (target, part) in position[2..].chunks_exact_mut(BANDS).zip(parts) {
            target.copy_from_slice(part);
        }
    }
    positions
}

/// The features of one direction.
struct Axis {
    coordinates: Vec<f32>,
    sines: Vec<[f32; BANDS]>,
    cosines: Vec<[f32; BANDS]>,
}

impl Axis {
    fn new(count: usize, resolution: usize) -> Self {
        let coordinates = linspace(-1.0, 1.0, count);
        let frequencies = linspace(1.0, resolution as f32 / 2.0, BANDS);
        let features = |function: fn(f32) -> f32| {
            let of = |coordinate: &f32| {
                let mut values = [0.0; BANDS];
                for (value, frequency) in values.iter_mut().zip(&frequencies) {
                    *value = function(coordinate * frequency * PI);
                }
                values
            };
            coordinates.iter().map(of).collect()
        };
        Self {
            sines: features(f32::sin),
            cosines: features(f32::cos),
            coordinates,
        }
    }
}

/// Returns `count` evenly spaced numbers, as `torch.linspace` computes them: from either end to the
/// middle, with one rounding. Two roundings change logits of sharp attention by 1e-4 of their size.
fn linspace(start: f32, end: f32, count: usize) -> Vec<f32> {
    let step = (end - start) / count.saturating_sub(1).max(1) as f32;
    let at = |index: usize| {
        if count == 1 || index < count / 2 {
            step.mul_add(index as f32, start)
        } else {
            (-step).mul_add((count - 1 - index) as f32, end)
        }
    };
    (0..count).map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_include_both_ends() {
        assert_eq!(linspace(-1.0, 1.0, 5), [-1.0, -0.5, 0.0, 0.5, 1.0]);
        assert_eq!(linspace(-1.0, 1.0, 2), [-1.0, 1.0]);
        assert_eq!(linspace(-1.0, 1.0, 1), [-1.0]);
        assert_eq!(linspace(1.0, 28.0, 64)[63..], [28.0]);
    }

    #[test]
    fn features_of_a_small_grid_match_the_definition() {
        let positions = fourier_positions([2, 3], 56);
        assert_eq!(positions.len(), 6 * WIDTH);
        let token = &positions[5 * WIDTH..]; // bottom right
        assert_eq!(token[..2], [1.0, 1.0]);
        let token = &positions[WIDTH..2 * WIDTH]; // top middle
        assert_eq!(token[..2], [-1.0, 0.0]);
        for band in 0..BANDS {
            let frequency = 1.0 + band as f64 * 27.0 / 63.0;
            let angle = -std::f64::consts::PI * frequency;
            let expected = [angle.sin(), 0.0, angle.cos(), 1.0];
            for (part, expected) in expected.into_iter().enumerate() {
                let actual = f64::from(token[2 + part * BANDS + band]);
                assert!((actual - expected).abs() < 2e-5, "{band} {part}: {actual}");
            }
        }
    }
}
