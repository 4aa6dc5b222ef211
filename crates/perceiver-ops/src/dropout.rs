//! Dropout whose mask is a function of a [`Key`]: the same in forward and backward, on any number of threads, and
//! when a run is resumed.
//!
//! Each value is kept with probability `1 - rate` and then divided by it, so that the expectation stays (Srivastava
//! et al., 2014; Keras's `Dropout`).

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::{self, TASK};
use crate::cuda;
use crate::narrow::{is_narrow_on_cpu, widened};
use crate::noted::{apply_op1, apply_op2};
use crate::simd::vectorised;
use crate::{Key, Mode};

/// Drops values of `x` with probability `rate` when `mode` is training; the identity otherwise.
///
/// Which values fall is decided by the key in `mode` and the position in `x` alone.
///
/// # Errors
/// When `rate` is not in `[0, 1)`.
pub fn dropout(x: &Tensor, rate: f64, mode: Mode) -> Result<Tensor> {
    match training_key(x, rate, mode)? {
        None => Ok(x.clone()),
        Some(_) if is_narrow_on_cpu(x) => widened([x], |[x]| dropout(x, rate, mode)),
        Some(key) if cpu::has_kernels(x) || cuda::has_kernels(x) => apply_op1(
            &x.contiguous()?,
            Dropout {
                rule: Rule::new(key, rate),
            },
        ),
        Some(key) => multiply_by_mask(x, key, rate),
    }
}

/// [`dropout`] as a product with a mask tensor: what every device runs that has no kernel, and what the kernel is
/// tested against. The mask is the same.
pub fn dropout_composed(x: &Tensor, rate: f64, mode: Mode) -> Result<Tensor> {
    match training_key(x, rate, mode)? {
        None => Ok(x.clone()),
        Some(key) => multiply_by_mask(x, key, rate),
    }
}

/// `x + dropout(branch)`, both of one shape: how a branch of a network joins its input again.
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
    if is_narrow_on_cpu(x) {
        return widened([x, branch], |[x, branch]| {
            add_dropout(x, branch, rate, mode)
        });
    }
    let on_gpu = cuda::has_kernels(x) && x.dtype() == branch.dtype();
    if on_gpu || (cpu::has_kernels(x) && cpu::has_kernels(branch)) {
        let rule = key.map(|key| Rule::new(key, rate));
        apply_op2(&x.contiguous()?, &branch.contiguous()?, AddDropout { rule })
    } else {
        add_dropout_composed(x, branch, rate, mode)
    }
}

/// [`add_dropout`] by candle's own sum: what every device runs that has no kernel, and what the kernel is tested against.
pub fn add_dropout_composed(x: &Tensor, branch: &Tensor, rate: f64, mode: Mode) -> Result<Tensor> {
    x + dropout_composed(branch, rate, mode)?
}

/// The key to drop values of `x` `[batch, ...]` by, or none where nothing falls.
pub(crate) fn training_key(x: &Tensor, rate: f64, mode: Mode) -> Result<Option<Key>> {
    if !(0.0..1.0).contains(&rate) {
        bail!("dropout: expected a rate of at least 0 and below 1, found {rate}");
    }
    let samples = x.dims().first().copied().unwrap_or(1).max(1);
    let key = mode.mask_key(x.elem_count() / samples);
    Ok(key.filter(|_| rate > 0.0))
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
pub(crate) struct Rule {
    key: Key,
    threshold: u64,
    scale: f32,
}

impl Rule {
    pub(crate) fn new(key: Key, rate: f64) -> Self {
        Self {
            key,
            threshold: (rate * f64::from(u32::MAX)) as u64,
            scale: (1.0 / (1.0 - rate)) as f32,
        }
    }

    /// The key and the threshold, for a kernel on a GPU.
    #[cfg(any(test, feature = "cuda"))]
    pub(crate) fn numbers(&self) -> [u64; 2] {
        [self.key.value(), self.threshold]
    }

    /// What the kernels of GPUs take.
    #[cfg(feature = "cuda")]
    fn for_gpu(&self) -> [cuda::Number; 3] {
        let [key, threshold] = self.numbers().map(cuda::Number::Whole);
        [key, threshold, cuda::Number::Real(self.scale())]
    }

    /// The same, or what lets nothing fall.
    #[cfg(feature = "cuda")]
    pub(crate) fn or_none_for_gpu(rule: Option<Self>) -> [cuda::Number; 3] {
        use cuda::Number::{Real, Whole};
        rule.map_or([Whole(0), Whole(0), Real(1.0)], |rule| rule.for_gpu())
    }

    /// What is left is multiplied by this.
    #[cfg(any(test, feature = "cuda"))]
    pub(crate) fn scale(&self) -> f32 {
        self.scale
    }

    /// 0 where the value at `index` falls, 1 / (1 - rate) where it stays.
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
    /// `y = x * factor`, of values whose places start at `first`.
    fn drop_values(rule: Rule, first: u64, x: &[f32], y: &mut [f32]) {
        for (index, (y, x)) in y.iter_mut().zip(x).enumerate() {
            *y = x * rule.factor(first + index as u64);
        }
    }

    /// `y = x + branch * factor`, of values whose places start at `first`.
    fn add_dropped(rule: Rule, first: u64, x: &[f32], branch: &[f32], y: &mut [f32]) {
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

/// Values of a tensor after dropout.
struct Dropout {
    rule: Rule,
}

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = cpu::values(self.name(), storage, layout)?;
        let mut y = cpu::zeros(x.len());
        y.par_chunks_mut(TASK)
            .zip(x.par_chunks(TASK))
            .enumerate()
            .for_each(|(task, (y, x))| drop_values(self.rule, (task * TASK) as u64, x, y));
        Ok((CpuStorage::F32(y), layout.shape().clone()))
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

/// The gradients of what a branch began at and of the branch, from that of their sum.
pub(crate) fn passed_on(grad: &Tensor, rule: Option<Rule>) -> Result<(Tensor, Tensor)> {
    let grad = grad.contiguous()?;
    let branch = match rule {
        None => grad.clone(),
        Some(rule) => grad.apply_op1_no_bwd(&Dropout { rule })?,
    };
    Ok((grad, branch))
}

/// A sum whose second term falls in part.
struct AddDropout {
    rule: Option<Rule>,
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
        let x = cpu::values(self.name(), x, x_layout)?;
        let branch = cpu::values(self.name(), branch, branch_layout)?;
        let mut y = cpu::zeros(x.len());
        y.par_chunks_mut(TASK)
            .zip(x.par_chunks(TASK).zip(branch.par_chunks(TASK)))
            .enumerate()
            .for_each(|(task, (y, (x, branch)))| match self.rule {
                None => add(x, branch, y),
                Some(rule) => add_dropped(rule, (task * TASK) as u64, x, branch, y),
            });
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
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
        cuda::map("add_dropout", inputs, &Rule::or_none_for_gpu(self.rule))
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
    fn a_part_has_the_mask_it_has_in_the_whole() {
        let x = ones(7 * 30).reshape((7, 5, 6)).unwrap();
        let key = Key::new(4);
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
