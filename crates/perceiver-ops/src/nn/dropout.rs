//! Dropout whose mask is a function of an [`RngKey`]: the same in forward and backward pass, on
//! any number of threads, and on resume.
//!
//! Each value is kept with probability `1 - rate` and then divided by it, which preserves the
//! expectation (Srivastava et al., 2014; Keras's `Dropout`).

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};

use crate::autograd::recorded_ops::{apply_op1, apply_op2};
use crate::cpu::floats::{Floats, are_floats, map};
use crate::cpu::simd::vectorised;
use crate::cuda;
use crate::half_precision::{is_narrow_on_cpu, widened};
use crate::{Mode, RngKey};

/// Drops values of `x` with probability `rate` in training; the identity otherwise.
///
/// The mask depends only on the key in `mode` and the position in `x`.
///
/// # Errors
/// When `rate` is not in `[0, 1)`.
pub fn dropout(x: &Tensor, rate: f64, mode: Mode) -> Result<Tensor> {
    match training_key(x, rate, mode)? {
        None => Ok(x.clone()),
        Some(key) if are_floats([x]) || cuda::has_kernels(x) => apply_op1(
            &x.contiguous()?,
            Dropout {
                rule: DropoutRule::new(key, rate),
            },
        ),
        Some(_) if is_narrow_on_cpu(x) => widened([x], |[x]| dropout(x, rate, mode)),
        Some(key) => multiply_by_mask(x, key, rate),
    }
}

/// Computes [`dropout`] as a product with a mask tensor: the fallback for devices without a kernel,
/// and the reference in tests. The mask is the same.
pub fn dropout_composed(x: &Tensor, rate: f64, mode: Mode) -> Result<Tensor> {
    match training_key(x, rate, mode)? {
        None => Ok(x.clone()),
        Some(key) => multiply_by_mask(x, key, rate),
    }
}

/// Computes `x + dropout(branch)`, both of one shape: a residual add.
///
/// # Errors
/// When the shapes differ or `rate` is not in `[0, 1)`.
pub fn add_dropout(x: &Tensor, branch: &Tensor, rate: f64, mode: Mode) -> Result<Tensor> {
    let key = training_key(branch, rate, mode)?;
    if x.dims() != branch.dims() {
        bail!(
            "add-dropout: expected two tensors of one shape, found {:?} and {:?}",
            x.dims(),
            branch.dims()
        );
    }
    let on_gpu = cuda::has_kernels(x) && x.dtype() == branch.dtype();
    if on_gpu || are_floats([x, branch]) {
        let rule = key.map(|key| DropoutRule::new(key, rate));
        apply_op2(&x.contiguous()?, &branch.contiguous()?, AddDropout { rule })
    } else if is_narrow_on_cpu(x) {
        widened([x, branch], |[x, branch]| {
            add_dropout(x, branch, rate, mode)
        })
    } else {
        add_dropout_composed(x, branch, rate, mode)
    }
}

/// Computes [`add_dropout`] by candle's sum: the fallback for devices without a kernel, and the
/// reference in tests.
pub fn add_dropout_composed(x: &Tensor, branch: &Tensor, rate: f64, mode: Mode) -> Result<Tensor> {
    x + dropout_composed(branch, rate, mode)?
}

/// Returns the dropout key for values of `x` `[batch, ...]`; `None` if nothing is dropped.
pub(crate) fn training_key(x: &Tensor, rate: f64, mode: Mode) -> Result<Option<RngKey>> {
    if !(0.0..1.0).contains(&rate) {
        bail!("dropout: expected a rate of at least 0 and below 1, found {rate}");
    }
    let samples = x.dims().first().copied().unwrap_or(1).max(1);
    let key = mode.mask_key(x.elem_count() / samples);
    Ok(key.filter(|_| rate > 0.0))
}

fn multiply_by_mask(x: &Tensor, key: RngKey, rate: f64) -> Result<Tensor> {
    let rule = DropoutRule::new(key, rate);
    let mask: Vec<f32> = (0..x.elem_count() as u64)
        .map(|index| rule.factor(index))
        .collect();
    let mask = Tensor::from_vec(mask, x.shape(), x.device())?.to_dtype(x.dtype())?;
    x * mask
}

/// The rule that decides which positions are dropped.
#[derive(Clone, Copy)]
pub(crate) struct DropoutRule {
    key: RngKey,
    threshold: u64,
    scale: f32,
}

impl DropoutRule {
    pub(crate) fn new(key: RngKey, rate: f64) -> Self {
        Self {
            key,
            threshold: (rate * f64::from(u32::MAX)) as u64,
            scale: (1.0 / (1.0 - rate)) as f32,
        }
    }

    /// Returns key and threshold for a GPU kernel.
    #[cfg(any(test, feature = "cuda"))]
    pub(crate) fn numbers(&self) -> [u64; 2] {
        [self.key.value(), self.threshold]
    }

    /// Returns the arguments for GPU kernels.
    #[cfg(feature = "cuda")]
    fn for_gpu(&self) -> [cuda::Number; 3] {
        let [key, threshold] = self.numbers().map(cuda::Number::Whole);
        [key, threshold, cuda::Number::Real(self.scale())]
    }

    /// Returns the arguments for GPU kernels; without a rule, those that drop nothing.
    #[cfg(feature = "cuda")]
    pub(crate) fn or_none_for_gpu(rule: Option<Self>) -> [cuda::Number; 3] {
        use cuda::Number::{Real, Whole};
        rule.map_or([Whole(0), Whole(0), Real(1.0)], |rule| rule.for_gpu())
    }

    /// Returns the scale of kept values.
    #[cfg(any(test, feature = "cuda"))]
    pub(crate) fn scale(&self) -> f32 {
        self.scale
    }

    /// Returns 0 if the value at `index` is dropped, else 1 / (1 - rate).
    #[inline(always)]
    fn factor(&self, index: u64) -> f32 {
        if self.key.bits(index) >> 32 < self.threshold {
            0.0
        } else {
            self.scale
        }
    }
}

vectorised! {
    /// Computes `y = x * factor` for values whose positions start at `first`.
    fn drop_values(rule: DropoutRule, first: u64, x: &[f32], y: &mut [f32]) {
        for (index, (y, x)) in y.iter_mut().zip(x).enumerate() {
            *y = x * rule.factor(first + index as u64);
        }
    }

    /// Computes `y = x + branch * factor` for values whose positions start at `first`.
    fn add_dropped(rule: DropoutRule, first: u64, x: &[f32], branch: &[f32], y: &mut [f32]) {
        for (index, (y, (x, branch))) in y.iter_mut().zip(x.iter().zip(branch)).enumerate() {
            *y = x + branch * rule.factor(first + index as u64);
        }
    }

    fn add(x: &[f32], branch: &[f32], y: &mut [f32]) {
        for (y, (x, branch)) in y.iter_mut().zip(x.iter().zip(branch)) {
            *y = x + branch;
        }
    }
}

/// The dropout operation.
struct Dropout {
    rule: DropoutRule,
}

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = Floats::of(self.name(), storage, layout)?;
        let y = map([x], 1, |first, [x], y| {
            drop_values(self.rule, first as u64, x, y);
        });
        Ok((y, layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        cuda::map("dropout", [(x, layout)], &self.rule.for_gpu())
    }

    fn bwd(&self, _x: &Tensor, _output: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let again = Self { rule: self.rule };
        grad.contiguous()?.apply_op1_no_bwd(&again).map(Some)
    }
}

/// Computes the gradients of the residual input and of the branch from that of their sum.
pub(crate) fn passed_on(grad: &Tensor, rule: Option<DropoutRule>) -> Result<(Tensor, Tensor)> {
    let grad = grad.contiguous()?;
    let branch = match rule {
        None => grad.clone(),
        Some(rule) => grad.apply_op1_no_bwd(&Dropout { rule })?,
    };
    Ok((grad, branch))
}

/// The sum of a tensor and dropout of another.
struct AddDropout {
    rule: Option<DropoutRule>,
}

impl CustomOp2 for AddDropout {
    fn name(&self) -> &'static str {
        "add-dropout"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        branch: &CpuStorage,
        branch_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = Floats::of(self.name(), x, x_layout)?;
        let branch = Floats::of(self.name(), branch, branch_layout)?;
        let y = map([x, branch], 1, |first, [x, branch], y| match self.rule {
            None => add(x, branch, y),
            Some(rule) => add_dropped(rule, first as u64, x, branch, y),
        });
        Ok((y, x_layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        branch: &CudaStorage,
        branch_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let inputs = [(x, x_layout), (branch, branch_layout)];
        cuda::map(
            "add_dropout",
            inputs,
            &DropoutRule::or_none_for_gpu(self.rule),
        )
    }

    fn bwd(
        &self,
        _x: &Tensor,
        _branch: &Tensor,
        _output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (x, branch) = passed_on(grad, self.rule)?;
        Ok((Some(x), Some(branch)))
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
    fn dropout_is_the_identity_in_inference() {
        let x = ones(100);
        let y = dropout(&x, 0.5, Mode::Inference).unwrap();
        assert_eq!(y.to_vec1::<f32>().unwrap(), vec![1.0; 100]);
    }

    #[test]
    fn values_are_dropped_at_the_rate_and_the_mean_is_preserved() {
        let mode = Mode::Training(RngKey::new(1));
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
    fn micro_batches_have_the_mask_of_the_batch() {
        let x = ones(7 * 30).reshape((7, 5, 6)).unwrap();
        let key = RngKey::new(4);
        let whole = dropout(&x, 0.5, Mode::Training(key)).unwrap();
        let part = Mode::TrainingPart { key, start: 3 };
        let part = dropout(&x.narrow(0, 3, 2).unwrap(), 0.5, part).unwrap();
        let [expected, part] = [whole.narrow(0, 3, 2).unwrap(), part]
            .map(|tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        assert_eq!(part, expected);
    }

    #[test]
    fn backward_uses_the_mask_of_forward() {
        let x = Var::from_tensor(&ones(1_000)).unwrap();
        let y = dropout(&x, 0.5, Mode::Training(RngKey::new(2))).unwrap();
        let gradients = y.sum_all().unwrap().backward().unwrap();
        let gradient = gradients.get(&x).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(gradient, y.to_vec1::<f32>().unwrap());
    }

    #[test]
    fn a_rate_of_one_is_rejected() {
        let error = dropout(&ones(1), 1.0, Mode::Inference).unwrap_err();
        assert!(error.to_string().contains("below 1, found 1"));
    }
}
