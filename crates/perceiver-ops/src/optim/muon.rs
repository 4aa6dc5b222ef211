//! An in-place Muon step of one matrix: its momentum, orthogonalized.
//!
//! Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024
//! (<https://kellerjordan.github.io/posts/muon>). With gradient `g`, `m += (g - m)(1 - momentum)` and
//! `w -= rate * scale * NS(u)`, where `u = g + (m - g) momentum` with Nesterov momentum, else
//! `u = m`. `NS` is [`orthogonalized`].

use candle_core::{Result, Tensor, bail};

use crate::nn::matmul::{Transpose, batched_matmul};
use crate::optim::ema::ema_update;
use crate::optim::multi_tensor::sum_of_all_squares;

/// The coefficients of the iteration, for the steepest slope at 0. It does not converge to 1:
/// singular values end between about 0.7 and 1.2.
const COEFFICIENTS: [f64; 3] = [3.4445, -4.7750, 2.0315];

/// The constant added to the norm, so that a matrix of zeros stays one.
const EPSILON: f64 = 1e-7;

/// Hyperparameters of a Muon step.
#[derive(Clone, Copy, Debug)]
pub struct MuonStep {
    /// Learning rate.
    pub learning_rate: f64,
    /// Momentum: the fraction of its mean of gradients that a parameter keeps.
    pub momentum: f64,
    /// Whether to use Nesterov momentum.
    pub nesterov: bool,
    /// The number of Newton-Schulz iterations.
    pub iterations: usize,
    /// The scale of the update.
    pub scale: MuonScale,
}

/// The scale of an orthogonalized update of `[rows, columns]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MuonScale {
    /// `max(1, rows / columns)^0.5`: the author's.
    Shape,
    /// `0.2 * max(rows, columns)^0.5`: updates as large as those of `AdamW`, whose learning rate and
    /// weight decay fit then (Liu et al., "Muon is scalable for LLM training", 2025).
    Moonlight,
}

impl MuonScale {
    /// Returns the factor on the update of a matrix.
    pub fn of(self, rows: usize, columns: usize) -> f64 {
        let (rows, columns) = (rows as f64, columns as f64);
        match self {
            Self::Shape => (rows / columns).max(1.0).sqrt(),
            Self::Moonlight => 0.2 * rows.max(columns).sqrt(),
        }
    }
}

/// Updates `momentum`, the mean of gradients, then `parameter`, both of one shape and in place:
/// clones share the change. A tensor of more than two dimensions, such as a convolution's kernel,
/// is the matrix of its first dimension and all others.
///
/// # Errors
/// When the shapes differ, a tensor has less than two dimensions or is not contiguous.
pub fn muon_step(
    parameter: &Tensor,
    momentum: &Tensor,
    gradient: &Tensor,
    step: MuonStep,
) -> Result<()> {
    let dims = [parameter, momentum, gradient].map(Tensor::dims);
    if dims.iter().any(|dims| *dims != parameter.dims()) || parameter.rank() < 2 {
        bail!("muon: expected a matrix, a momentum and a gradient of one shape, found {dims:?}");
    }
    let gradient = gradient.detach().contiguous()?;
    ema_update(momentum, &gradient, (1.0 - step.momentum) as f32)?;
    let update = if step.nesterov {
        (&gradient + ((momentum.detach() - &gradient)? * step.momentum)?)?
    } else {
        momentum.detach()
    };
    let update = update.flatten_from(1)?; // [rows, columns]
    let (rows, columns) = update.dims2()?;
    let size = step.learning_rate * step.scale.of(rows, columns);
    let change = (orthogonalized(&update, step.iterations)? * size)?;
    let flat = parameter.detach().flatten_all()?;
    flat.slice_set(&(&flat - change.flatten_all()?)?, 0, 0)
}

/// Brings the singular values of `matrix` `[rows, columns]` near 1 by `iterations` of a quintic
/// Newton-Schulz iteration: from `x = matrix / |matrix|`, `x <- a x + (b y + c y^2) x` with
/// `y = x x^T`, on the transpose if there are more rows than columns.
///
/// Every product is on one thread, so the result does not depend on the number of threads.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// let matrix = Tensor::new(&[[3f32, 0.0], [0.0, -0.5]], &Device::Cpu)?;
/// let near = perceiver_ops::orthogonalized(&matrix, 5)?.to_vec2::<f32>()?;
/// assert!((0.6..1.3).contains(&near[0][0]) && (0.6..1.3).contains(&-near[1][1]));
/// assert_eq!((near[0][1], near[1][0]), (0.0, 0.0));
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// When `matrix` is no matrix.
pub fn orthogonalized(matrix: &Tensor, iterations: usize) -> Result<Tensor> {
    let [a, b, c] = COEFFICIENTS;
    let (rows, columns) = matrix.dims2()?;
    let is_tall = rows > columns;
    let wide = if is_tall {
        matrix.t()?.contiguous()?
    } else {
        matrix.clone()
    };
    let norm = (sum_of_all_squares(&[&wide])?.sqrt()? + EPSILON)?;
    let mut x = wide.broadcast_div(&norm)?.unsqueeze(0)?; // [1, fewer, more]
    for _ in 0..iterations {
        let gram = batched_matmul(&x, &x, Transpose::Right)?; // [1, fewer, fewer]
        let square = batched_matmul(&gram, &gram, Transpose::Neither)?;
        let polynomial = ((gram * b)? + (square * c)?)?;
        x = ((&x * a)? + batched_matmul(&polynomial, &x, Transpose::Neither)?)?;
    }
    let x = x.squeeze(0)?;
    if is_tall { x.t()?.contiguous() } else { Ok(x) }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::rng::RngKey;

    fn random(shape: (usize, usize), seed: u64) -> Tensor {
        let key = RngKey::new(seed);
        let value = |index: usize| (key.bits(index as u64) >> 40) as f32 / (1 << 23) as f32 - 1.0;
        let values: Vec<f32> = (0..shape.0 * shape.1).map(value).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    /// Nearly orthogonal: the Gram matrix is near the identity.
    #[test]
    fn updates_are_nearly_orthogonal_whatever_the_scale_of_the_matrix() {
        for (shape, factor) in [((6, 20), 1.0), ((20, 6), 1e-3), ((8, 8), 1e4)] {
            let matrix = (random(shape, 3) * factor).unwrap();
            let near = orthogonalized(&matrix, 10).unwrap();
            assert_eq!(near.dims2().unwrap(), shape);
            let wide = if shape.0 > shape.1 {
                near.t().unwrap()
            } else {
                near
            };
            let gram = wide
                .matmul(&wide.t().unwrap())
                .unwrap()
                .to_vec2::<f32>()
                .unwrap();
            for (row, values) in gram.iter().enumerate() {
                for (column, value) in values.iter().enumerate() {
                    let expected = f32::from(u8::from(row == column));
                    assert!(
                        (value - expected).abs() < 0.6,
                        "{shape:?} {row} {column}: {value}"
                    );
                }
            }
        }
    }

    #[test]
    fn zeros_stay_zeros_and_weights_stay_where_they_are() {
        let zeros = random((3, 4), 0).zeros_like().unwrap();
        let (parameter, momentum) = (random((3, 4), 1), zeros.copy().unwrap());
        let before = parameter.to_vec2::<f32>().unwrap();
        let step = MuonStep {
            learning_rate: 0.1,
            momentum: 0.95,
            nesterov: true,
            iterations: 5,
            scale: MuonScale::Shape,
        };
        muon_step(&parameter, &momentum, &zeros, step).unwrap();
        assert_eq!(parameter.to_vec2::<f32>().unwrap(), before);
        assert!(muon_step(&parameter, &momentum, &random((4, 3), 0), step).is_err());
        let vector = zeros.flatten_all().unwrap();
        assert!(muon_step(&vector, &vector, &vector, step).is_err());
    }

    #[test]
    fn scales_are_those_of_the_sources() {
        for (scale, rows, columns, expected) in [
            (MuonScale::Shape, 64, 16, 2.0),
            (MuonScale::Shape, 16, 64, 1.0),
            (MuonScale::Moonlight, 100, 25, 2.0),
            (MuonScale::Moonlight, 25, 400, 4.0),
        ] {
            assert!((scale.of(rows, columns) - expected).abs() < 1e-12);
        }
    }
}
