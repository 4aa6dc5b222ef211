//! Concatenation of every sample's rows with rows that all samples share, with a backward pass.
//!
//! Positions belong to the place of a token, not to the image. Repeated for a batch and then
//! concatenated by candle, they take as much memory again as the result, in either pass, and one
//! thread copies them.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::autograd::recorded_ops::{apply_op2, cat, reshape};
use crate::cpu;
use crate::cpu::simd;
use crate::nn::broadcast::expand_batch;

/// Appends to each row of `x` `[batch, n, a]` the same row of `shared` `[n, b]`:
/// `[batch, n, a + b]`.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use perceiver_ops::concat_shared;
///
/// let x = Tensor::new(&[[[1f32], [2.0]], [[3.0], [4.0]]], &Device::Cpu)?;
/// let shared = Tensor::new(&[[7f32, 8.0], [9.0, 10.0]], &Device::Cpu)?;
/// let rows = concat_shared(&x, &shared)?.get(1)?;
/// assert_eq!(rows.to_vec2::<f32>()?, [[3.0, 7.0, 8.0], [4.0, 9.0, 10.0]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// When the shapes do not fit.
pub fn concat_shared(x: &Tensor, shared: &Tensor) -> Result<Tensor> {
    let widths = Widths::new(x, shared)?;
    if cpu::has_kernels(x) && cpu::has_kernels(shared) {
        apply_op2(&x.contiguous()?, &shared.contiguous()?, Concat(widths))
    } else {
        concat_shared_composed(x, shared)
    }
}

/// Computes [`concat_shared`] by candle's operations: the fallback for devices without a kernel, and
/// the reference in tests.
///
/// # Errors
/// As for [`concat_shared`].
pub fn concat_shared_composed(x: &Tensor, shared: &Tensor) -> Result<Tensor> {
    Widths::new(x, shared)?;
    let (n, width) = shared.dims2()?;
    let shared = expand_batch(&reshape(shared, (1, n, width))?, x.dim(0)?)?;
    cat(&[x, &shared], 2)
}

/// The widths of rows: of a sample, and shared.
#[derive(Clone, Copy)]
struct Widths {
    own: usize,
    shared: usize,
}

impl Widths {
    fn new(x: &Tensor, shared: &Tensor) -> Result<Self> {
        match (x.dims(), shared.dims()) {
            (&[_, n, own], &[rows, shared]) if n == rows && own > 0 && shared > 0 => {
                Ok(Self { own, shared })
            }
            (x, shared) => bail!(
                "concat-shared: shapes {x:?} and {shared:?} do not fit: expected [batch, n, a] and [n, b], without empty rows"
            ),
        }
    }

    fn sum(self) -> usize {
        self.own + self.shared
    }
}

struct Concat(Widths);

impl CustomOp2 for Concat {
    fn name(&self) -> &'static str {
        "concat-shared"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        shared: &CpuStorage,
        shared_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = cpu::values(self.name(), x, x_layout)?;
        let shared = cpu::values(self.name(), shared, shared_layout)?;
        let widths = self.0;
        let (batch, n, _) = x_layout.shape().dims3()?;
        let mut output = cpu::zeros(batch * n * widths.sum());
        let task = cpu::rows_per_task(widths.sum());
        output
            .par_chunks_mut(task * widths.sum())
            .zip(x.par_chunks(task * widths.own))
            .enumerate()
            .for_each(|(number, (output, x))| {
                let rows = output.chunks_mut(widths.sum()).zip(x.chunks(widths.own));
                for (index, (output, x)) in rows.enumerate() {
                    let row = (number * task + index) % n;
                    let (own, other) = output.split_at_mut(widths.own);
                    own.copy_from_slice(x);
                    other.copy_from_slice(&shared[row * widths.shared..][..widths.shared]);
                }
            });
        let shape = Shape::from((batch, n, widths.sum()));
        Ok((CpuStorage::F32(output), shape))
    }

    fn bwd(
        &self,
        _x: &Tensor,
        _shared: &Tensor,
        _output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let dx = grad.apply_op1_no_bwd(&OwnGradient(self.0))?;
        let dshared = grad.apply_op1_no_bwd(&SharedGradient(self.0))?;
        Ok((Some(dx), Some(dshared)))
    }
}

/// The first values of every row.
struct OwnGradient(Widths);

impl CustomOp1 for OwnGradient {
    fn name(&self) -> &'static str {
        "concat-shared-own-gradient"
    }

    fn cpu_fwd(&self, grad: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let grad = cpu::values(self.name(), grad, layout)?;
        let widths = self.0;
        let (batch, n, _) = layout.shape().dims3()?;
        let mut dx = cpu::zeros(batch * n * widths.own);
        let task = cpu::rows_per_task(widths.sum());
        dx.par_chunks_mut(task * widths.own)
            .zip(grad.par_chunks(task * widths.sum()))
            .for_each(|(dx, grad)| {
                let rows = dx.chunks_mut(widths.own).zip(grad.chunks(widths.sum()));
                rows.for_each(|(dx, grad)| dx.copy_from_slice(&grad[..widths.own]));
            });
        Ok((CpuStorage::F32(dx), Shape::from((batch, n, widths.own))))
    }
}

/// The sums over the batch of the last values of every row.
struct SharedGradient(Widths);

impl CustomOp1 for SharedGradient {
    fn name(&self) -> &'static str {
        "concat-shared-shared-gradient"
    }

    fn cpu_fwd(&self, grad: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let grad = cpu::values(self.name(), grad, layout)?;
        let widths = self.0;
        let (_, n, _) = layout.shape().dims3()?;
        let mut sums = cpu::zeros(n * widths.shared);
        let task = cpu::rows_per_task(widths.shared);
        sums.par_chunks_mut(task * widths.shared)
            .enumerate()
            .for_each(|(number, sums)| {
                for sample in grad.chunks(n * widths.sum()) {
                    let rows = sample.chunks(widths.sum()).skip(number * task);
                    for (sum, row) in sums.chunks_mut(widths.shared).zip(rows) {
                        simd::add_to(sum, &row[widths.own..]);
                    }
                }
            });
        Ok((CpuStorage::F32(sums), Shape::from((n, widths.shared))))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;
    use crate::{RngKey, Tape};

    fn variable(seed: u64, shape: &[usize]) -> Var {
        let values = (0..shape.iter().product::<usize>() as u64)
            .map(|i| (RngKey::new(seed).bits(i) >> 40) as f32 / 8_388_608.0 - 1.0);
        let values = Tensor::from_iter(values, &Device::Cpu).unwrap();
        Var::from_tensor(&values.reshape(shape).unwrap()).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Rows of several tasks, too.
    #[test]
    fn values_and_gradients_equal_those_of_candles_operations() {
        for (batch, n, own, shared) in [(1, 1, 1, 1), (3, 5, 2, 4), (2, 700, 33, 20)] {
            let (x, rows) = (variable(1, &[batch, n, own]), variable(2, &[n, shared]));
            let factors = variable(3, &[batch, n, own + shared]);
            let loss = |y: &Tensor| (y * factors.as_tensor()).unwrap().sum_all().unwrap();
            let found = concat_shared(&x, &rows).unwrap();
            let expected = concat_shared_composed(&x, &rows).unwrap();
            assert_eq!(found.dims(), [batch, n, own + shared]);
            assert_eq!(values(&found), values(&expected));
            let tape = Tape::start();
            let y = concat_shared(&x, &rows).unwrap();
            let recorded = tape.backward(&loss(&y)).unwrap();
            let [found, expected] = [found, expected].map(|y| loss(&y).backward().unwrap());
            for variable in [&x, &rows] {
                let expected = values(expected.get(variable).unwrap());
                for store in [&found, &recorded] {
                    let found = values(store.get(variable).unwrap());
                    for (found, expected) in found.iter().zip(&expected) {
                        assert!((found - expected).abs() < 1e-6, "{found}, not {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_rejected() {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        for (x, shared) in [
            (&[2, 3, 4][..], &[4, 4][..]),
            (&[3, 4], &[3, 4]),
            (&[1, 3, 0], &[3, 4]),
        ] {
            for function in [concat_shared, concat_shared_composed] {
                let error = function(&zeros(x), &zeros(shared)).unwrap_err().to_string();
                assert!(
                    error.contains("expected [batch, n, a] and [n, b]"),
                    "{error}"
                );
            }
        }
    }
}
