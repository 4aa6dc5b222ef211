//! Learned positions of Perceiver IO: a table for the pixels of training images, and a projection.
//!
//! For images of another size, the table is resized as transformers does with
//! `interpolate_pos_encoding`: pixel `i` of `to` is at `(i + 0.5) * from / to - 0.5` in the table,
//! between whose values a cubic convolution interpolates in both directions (Keys, "Cubic
//! convolution interpolation for digital image processing", 1981, with `a = -0.75`); beyond an edge,
//! the edge's value counts. There is no antialiasing.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use perceiver_ops::{Transpose, batched_matmul, reshape};

use crate::layers::Dense;
use crate::perceiver_io::config::PerceiverIoConfig;
use crate::perceiver_io::kind::LEARNED_CHANNELS;
use crate::perceiver_io::layer::dense;

/// The parameter of the cubic convolution, as PyTorch has it.
const SHARPNESS: f64 = -0.75;

/// The table and its projection.
#[derive(Debug, Clone)]
pub(crate) struct LearnedPositions {
    table: Tensor, // [side * side, 256]
    projection: Dense,
    side: usize,
    computed: Option<Computed>,
}

/// In models for inference, the last positions with their grid, for all copies of the model.
type Computed = Arc<Mutex<Option<([usize; 2], Tensor)>>>;

impl LearnedPositions {
    pub(crate) fn new(config: &PerceiverIoConfig, vb: &VarBuilder) -> Result<Self> {
        let side = config.image_size;
        let shape = (side * side, LEARNED_CHANNELS);
        let name = "position_embeddings.position_embeddings";
        let projection = vb.pp("positions_projection");
        Ok(Self {
            table: vb.get_with_hints(shape, name, config.initializer())?,
            projection: dense(config, [LEARNED_CHANNELS; 2], &projection)?,
            side,
            computed: None,
        })
    }

    /// Returns a copy for inference only, which computes the positions of a grid once, not in every
    /// pass.
    pub(crate) fn folded(&self) -> Self {
        Self {
            computed: Some(Arc::default()),
            ..self.clone()
        }
    }

    /// Returns the positions of a grid of pixels, row by row: `[rows * columns, 256]`.
    pub(crate) fn rows(&self, grid: [usize; 2]) -> Result<Tensor> {
        let Some(computed) = &self.computed else {
            return self.compute(grid);
        };
        let mut computed = computed.lock().unwrap_or_else(PoisonError::into_inner);
        match &*computed {
            Some((of, positions)) if *of == grid => Ok(positions.clone()),
            _ => {
                let positions = self.compute(grid)?;
                *computed = Some((grid, positions.clone()));
                Ok(positions)
            }
        }
    }

    fn compute(&self, grid: [usize; 2]) -> Result<Tensor> {
        self.projection
            .forward(&resized(&self.table, self.side, grid)?)
    }
}

/// Resizes a table of positions `[from * from, width]` to `[to * to, width]`, for a model of images
/// of another size.
pub(crate) fn resize_position_table(table: &Tensor, from: usize, to: usize) -> Result<Tensor> {
    resized(table, from, [to, to])
}

/// Resizes a table of positions `[from * from, width]` to a grid: `[rows * columns, width]`.
///
/// Interpolation is linear in the table, so it is one matrix product for each direction, with a
/// gradient. Of a row's `from` entries at most four are not zero, but the products still take less
/// than a tenth of a pass.
fn resized(table: &Tensor, from: usize, [rows, columns]: [usize; 2]) -> Result<Tensor> {
    if [rows, columns] == [from, from] {
        return Ok(table.clone());
    }
    let (_, width) = table.dims2()?;
    let matrix = |to: usize| {
        let matrix = Tensor::from_vec(interpolation(from, to), (1, to, from), table.device())?;
        matrix.to_dtype(table.dtype())
    };
    let of_columns = matrix(columns)?.broadcast_as((from, columns, from))?;
    let table = reshape(table, (from, from, width))?;
    let table = batched_matmul(&of_columns, &table, Transpose::Neither)?; // [from, columns, width]
    let table = reshape(&table, (1, from, columns * width))?;
    let table = batched_matmul(&matrix(rows)?, &table, Transpose::Neither)?; // [1, rows, columns * width]
    reshape(&table, (rows * columns, width))
}

/// Computes the weights of `from` values in each of `to` interpolated ones, `[to, from]`.
fn interpolation(from: usize, to: usize) -> Vec<f32> {
    let last = from.saturating_sub(1) as f64;
    let mut weights = vec![0.0; to * from];
    for (index, row) in weights.chunks_exact_mut(from.max(1)).enumerate() {
        let position = (index as f64 + 0.5) * from as f64 / to as f64 - 0.5;
        for tap in [-1.0, 0.0, 1.0, 2.0] {
            let neighbour = position.floor() + tap;
            row[neighbour.clamp(0.0, last) as usize] += cubic(position - neighbour) as f32;
        }
    }
    weights
}

/// Returns the weight of a value at a distance: the kernel of cubic convolution.
fn cubic(distance: f64) -> f64 {
    let x = distance.abs();
    if x <= 1.0 {
        ((SHARPNESS + 2.0) * x - (SHARPNESS + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        SHARPNESS * (((x - 5.0) * x + 8.0) * x - 4.0)
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;

    fn table(side: usize, width: usize) -> Tensor {
        let values = (0..side * side * width).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0);
        let values = Tensor::from_iter(values, &Device::Cpu).unwrap();
        values.reshape((side * side, width)).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// The polynomials of PyTorch's `upsample_bicubic2d`: weights of the four neighbours of a value
    /// at `t` between the second and the third.
    fn coefficients(t: f64) -> [f64; 4] {
        let a = -0.75;
        let near = |x: f64| ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
        let far = |x: f64| ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a;
        [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]
    }

    /// Interpolates one value of a grid from its sixteen neighbours.
    fn interpolated(
        values: &[f32],
        side: usize,
        width: usize,
        at: [f64; 2],
        channel: usize,
    ) -> f64 {
        let [y, x] =
            at.map(|position| (position.floor(), coefficients(position - position.floor())));
        let clamped = |index: f64| index.clamp(0.0, side as f64 - 1.0) as usize;
        let mut sum = 0.0;
        for (row, of_row) in y.1.iter().enumerate() {
            for (column, of_column) in x.1.iter().enumerate() {
                let row = clamped(y.0 + row as f64 - 1.0);
                let column = clamped(x.0 + column as f64 - 1.0);
                let value = values[(row * side + column) * width + channel];
                sum += of_row * of_column * f64::from(value);
            }
        }
        sum
    }

    #[test]
    fn resized_tables_match_a_direct_computation() {
        let width = 3;
        for (side, grid) in [
            (5, [8, 3]),
            (4, [4, 9]),
            (6, [2, 6]),
            (1, [3, 2]),
            (7, [14, 14]),
        ] {
            let table = table(side, width);
            let found = values(&resized(&table, side, grid).unwrap());
            let table = values(&table);
            assert_eq!(found.len(), grid[0] * grid[1] * width);
            for (index, found) in found.iter().enumerate() {
                let token = index / width;
                let place = [token / grid[1], token % grid[1]];
                let at = [0, 1]
                    .map(|axis| (place[axis] as f64 + 0.5) * side as f64 / grid[axis] as f64 - 0.5);
                let expected = interpolated(&table, side, width, at, index % width);
                let distance = (f64::from(*found) - expected).abs();
                assert!(
                    distance < 1e-5,
                    "{side} {grid:?} {index}: {found}, {expected}"
                );
            }
        }
    }

    #[test]
    fn tables_of_the_same_size_and_constants_stay_as_they_are() {
        let same = table(4, 2);
        let resized = resize_position_table(&same, 4, 4).unwrap();
        assert_eq!(values(&resized), values(&same));
        let constant = Tensor::full(3f32, (16, 2), &Device::Cpu).unwrap();
        let resized = resize_position_table(&constant, 4, 11).unwrap();
        assert_eq!(resized.dims(), [121, 2]);
        for value in values(&resized) {
            assert!((value - 3.0).abs() < 1e-5, "{value}");
        }
    }

    /// The resized table is linear in the table, so its gradient along any table is exact: the sum of
    /// products with a direction is that of the resized direction.
    #[test]
    fn gradients_pass_through_interpolation() {
        let (side, grid) = (5, [7, 4]);
        let variable = Var::from_tensor(&table(side, 2)).unwrap();
        let factors = table(28, 2).narrow(0, 0, 28).unwrap();
        let weighed = |table: &Tensor| {
            let product = (resized(table, side, grid).unwrap() * &factors).unwrap();
            product.sum_all().unwrap()
        };
        let gradients = weighed(variable.as_tensor()).backward().unwrap();
        let gradient = gradients.get(&variable).unwrap();
        let direction = (table(side, 2).sqr().unwrap() - 0.3).unwrap();
        let number = |tensor: Tensor| tensor.to_scalar::<f32>().unwrap();
        let found = number((gradient * &direction).unwrap().sum_all().unwrap());
        let expected = number(weighed(&direction));
        assert!((found - expected).abs() < 1e-3, "{found}, not {expected}");
    }

    #[test]
    fn models_for_inference_compute_the_positions_of_a_grid_once() {
        let config = PerceiverIoConfig {
            image_size: 3,
            ..PerceiverIoConfig::default()
        };
        let tensors = crate::weights::parameters::recorded(|vb| {
            Ok(LearnedPositions::new(&config, &vb).map(drop)?)
        });
        let tensors = tensors.unwrap().into_iter().map(|(name, (shape, _))| {
            let values = (0..shape.elem_count()).map(|i| ((i * 31) % 17) as f32 / 20.0 - 0.4);
            let values = Tensor::from_iter(values, &Device::Cpu).unwrap();
            (name, values.reshape(shape).unwrap())
        });
        let vb = VarBuilder::from_tensors(tensors.collect(), DType::F32, &Device::Cpu);
        let positions = LearnedPositions::new(&config, &vb).unwrap();
        let folded = positions.folded();
        for grid in [[3, 3], [4, 6]] {
            let [first, second] = [(); 2].map(|()| folded.clone().rows(grid).unwrap());
            assert_eq!(first.id(), second.id());
            assert_eq!(first.dims(), [grid[0] * grid[1], LEARNED_CHANNELS]);
            let each_time = [(); 2].map(|()| positions.rows(grid).unwrap());
            assert_ne!(each_time[0].id(), each_time[1].id());
            assert_eq!(values(&each_time[0]), values(&first));
        }
    }
}
