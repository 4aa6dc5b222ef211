//! Dropout whose mask is a function of a [`Key`]: the same in forward and backward, on any number of threads, and
//! when a run is resumed.
//!
//! Each value is kept with probability `1 - rate` and then divided by it, so that the expectation stays (Srivastava
//! et al., 2014; Keras's `Dropout`).

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::{Key, Mode, cpu};

/// Values handed to one task at a time.
const TASK: usize = 16_384;

/// Drops values of `x` with probability `rate` when `mode` is training; the identity otherwise.
///
/// Which values fall is decided by the key in `mode` and the position in `x` alone.
///
/// # Errors
/// When `rate` is not in `[0, 1)`.
pub fn dropout(x: &Tensor, rate: f64, mode: Mode) -> Result<Tensor> {
    match training_key(rate, mode)? {
        None => Ok(x.clone()),
        Some(key) if cpu::has_kernels(x) => x.contiguous()?.apply_op1(Dropout { key, rate }),
        Some(key) => multiply_by_mask(x, key, rate),
    }
}

/// [`dropout`] as a product with a mask tensor: what every device runs that has no kernel, and what the kernel is
/// tested against. The mask is the same.
pub fn dropout_composed(x: &Tensor, rate: f64, mode: Mode) -> Result<Tensor> {
    match training_key(rate, mode)? {
        None => Ok(x.clone()),
        Some(key) => multiply_by_mask(x, key, rate),
    }
}

/// The key to drop by, or none where nothing falls.
fn training_key(rate: f64, mode: Mode) -> Result<Option<Key>> {
    if !(0.0..1.0).contains(&rate) {
        bail!("dropout: expected a rate of at least 0 and below 1, found {rate}");
    }
    Ok(match mode {
        Mode::Training(key) if rate > 0.0 => Some(key),
        _ => None,
    })
}

fn multiply_by_mask(x: &Tensor, key: Key, rate: f64) -> Result<Tensor> {
    let rule = Rule::new(key, rate);
    let mask: Vec<f32> = (0..x.elem_count() as u64)
        .map(|index| rule.factor(index))
        .collect();
    let mask = Tensor::from_vec(mask, x.shape(), x.device())?.to_dtype(x.dtype())?;
    x * mask
}

/// Decides each position's fate.
#[derive(Clone, Copy)]
struct Rule {
    key: Key,
    threshold: u64,
    scale: f32,
}

impl Rule {
    fn new(key: Key, rate: f64) -> Self {
        Self {
            key,
            threshold: (rate * f64::from(u32::MAX)) as u64,
            scale: (1.0 / (1.0 - rate)) as f32,
        }
    }

    /// 0 where the value at `index` falls, 1 / (1 - rate) where it stays.
    #[inline]
    fn factor(&self, index: u64) -> f32 {
        if self.key.bits(index) >> 32 < self.threshold {
            0.0
        } else {
            self.scale
        }
    }
}

struct Dropout {
    key: Key,
    rate: f64,
}

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = cpu::values(self.name(), storage, layout)?;
        let rule = Rule::new(self.key, self.rate);
        let y: Vec<f32> = x
            .par_iter()
            .enumerate()
            .with_min_len(TASK)
            .map(|(index, &x)| x * rule.factor(index as u64))
            .collect();
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, _output: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let again = Self {
            key: self.key,
            rate: self.rate,
        };
        grad.contiguous()?.apply_op1_no_bwd(&again).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Var};

    fn ones(len: usize) -> Tensor {
        Tensor::ones(len, DType::F32, &Device::Cpu).unwrap()
    }

    #[test]
    fn inference_changes_nothing() {
        let x = ones(100);
        let y = dropout(&x, 0.5, Mode::Inference).unwrap();
        assert_eq!(y.to_vec1::<f32>().unwrap(), vec![1.0; 100]);
    }

    #[test]
    fn a_rate_of_the_values_falls_and_the_mean_stays() {
        let mode = Mode::Training(Key::new(1));
        let y = dropout(&ones(200_000), 0.3, mode)
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        let fallen = y.iter().filter(|&&v| v == 0.0).count() as f64 / 200_000.0;
        assert!((fallen - 0.3).abs() < 0.005, "{fallen} of the values fell");
        let mean = y.iter().sum::<f32>() / 200_000.0;
        assert!((mean - 1.0).abs() < 0.01, "the mean became {mean}");
    }

    #[test]
    fn backward_uses_the_mask_of_forward() {
        let x = Var::from_tensor(&ones(1_000)).unwrap();
        let y = dropout(&x, 0.5, Mode::Training(Key::new(2))).unwrap();
        let gradients = y.sum_all().unwrap().backward().unwrap();
        let gradient = gradients.get(&x).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(gradient, y.to_vec1::<f32>().unwrap());
    }

    #[test]
    fn a_rate_of_one_is_refused() {
        let error = dropout(&ones(1), 1.0, Mode::Inference).unwrap_err();
        assert!(error.to_string().contains("below 1, found 1"));
    }
}
