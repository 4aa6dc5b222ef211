//! Multi-tensor optimizer steps: all parameters of a model in one or two kernels on CUDA, one
//! parameter after another elsewhere.

use candle_core::{DType, Result, Tensor, bail};
use rayon::prelude::*;

use crate::half_precision::converted;
use crate::optim::ParameterStep;
#[cfg(feature = "cuda")]
use crate::optim::gpu;
use crate::optim::muon::{MuonStep, muon_step};
use crate::{AdamStep, LambStep, adam_step, decay, ema_update, lamb_step, sum_of_squares};

/// Runs weight decay and [`adam_step`] for all parameters. Gradients are multiplied by `factor`, an
/// optional scalar.
///
/// # Errors
/// When the shapes differ or a changed tensor is not contiguous.
pub fn adam_steps(
    parameters: &[ParameterStep<2>],
    step: AdamStep,
    factor: Option<&Tensor>,
) -> Result<()> {
    #[cfg(feature = "cuda")]
    if are_on_gpu(parameters) {
        return gpu::adam(parameters, step, factor);
    }
    one_by_one(parameters, factor, |each, gradient| {
        let [first, second] = each.moments;
        adam_step(each.parameter, first, second, gradient, step)
    })
}

/// Runs decoupled weight decay and [`lamb_step`] for all parameters; each has its own
/// [`LambStep::weight_decay`].
///
/// # Errors
/// As for [`adam_steps`].
pub fn lamb_steps(
    parameters: &[ParameterStep<2>],
    step: LambStep,
    factor: Option<&Tensor>,
) -> Result<()> {
    #[cfg(feature = "cuda")]
    if are_on_gpu(parameters) {
        return gpu::lamb(parameters, step, factor);
    }
    one_by_one(parameters, factor, |each, gradient| {
        let [first, second] = each.moments;
        let step = LambStep {
            weight_decay: each.weight_decay,
            ..step
        };
        lamb_step(each.parameter, first, second, gradient, step)
    })
}

/// Runs decoupled weight decay and [`muon_step`] for all parameters; on the CPU, several at once.
///
/// # Errors
/// As for [`muon_step`].
pub fn muon_steps(
    parameters: &[ParameterStep<1>],
    step: MuonStep,
    factor: Option<&Tensor>,
) -> Result<()> {
    let one = |each: &ParameterStep<1>| {
        one_by_one(std::slice::from_ref(each), factor, |each, gradient| {
            let [momentum] = each.moments;
            muon_step(each.parameter, momentum, gradient, step)
        })
    };
    let mut all = parameters.iter();
    if all.all(|each| each.parameter.device().is_cpu()) {
        return parameters.par_iter().try_for_each(one);
    }
    parameters.iter().try_for_each(one)
}

/// Calls `step` for every parameter after its decay, with its gradient times `factor`.
///
/// # Errors
/// Those of `step`, and when a parameter is not contiguous.
pub fn one_by_one<const N: usize>(
    parameters: &[ParameterStep<N>],
    factor: Option<&Tensor>,
    step: impl Fn(&ParameterStep<N>, &Tensor) -> Result<()>,
) -> Result<()> {
    for each in parameters {
        if each.decay > 0.0 {
            decay(each.parameter, each.decay)?;
        }
        match factor {
            None => step(each, each.gradient)?,
            Some(factor) => step(each, &each.gradient.broadcast_mul(factor)?)?,
        }
    }
    Ok(())
}

/// Runs [`ema_update`] for all pairs of a mean and a value.
///
/// # Errors
/// When the shapes of a pair differ or a mean is not contiguous.
pub fn ema_updates(pairs: &[(&Tensor, &Tensor)], rate: f32) -> Result<()> {
    #[cfg(feature = "cuda")]
    if gpu::are_there(
        pairs.iter().flat_map(|(mean, value)| [*mean, value]),
        DType::F32,
    ) {
        return gpu::ema_updates(pairs, rate);
    }
    let mut pairs = pairs.iter();
    pairs.try_for_each(|(mean, value)| ema_update(mean, value, rate))
}

/// Adds the second tensor of every pair to the first, in place. All have one type, and no tensor is
/// in two pairs.
///
/// # Errors
/// When the sizes of a pair differ or a first tensor is not contiguous.
pub(crate) fn add_all(pairs: &[(&Tensor, &Tensor)]) -> Result<()> {
    #[cfg(feature = "cuda")]
    for dtype in [DType::F32, DType::BF16] {
        if gpu::are_there(pairs.iter().flat_map(|(sum, share)| [*sum, share]), dtype) {
            return gpu::add_all(pairs, dtype);
        }
    }
    let mut pairs = pairs.iter();
    pairs.try_for_each(|(sum, share)| copy_all(&[(*sum, &sum.add(share)?)]))
}

/// Copies the second tensor of every pair into the first, rounded to its type, in place.
///
/// # Errors
/// When the sizes of a pair differ or a first tensor is not contiguous.
pub fn copy_all(pairs: &[(&Tensor, &Tensor)]) -> Result<()> {
    #[cfg(feature = "cuda")]
    if gpu::are_there(pairs.iter().map(|pair| pair.0), DType::BF16)
        && gpu::are_there(pairs.iter().map(|pair| pair.1), DType::F32)
    {
        return gpu::narrow_all(pairs);
    }
    for (to, from) in pairs {
        let from = converted(&from.flatten_all()?, to.dtype())?;
        to.detach().flatten_all()?.slice_set(&from, 0, 0)?;
    }
    Ok(())
}

/// Converts tensors to `f32`.
///
/// # Errors
/// When the device is out of memory.
pub fn widen_all(tensors: &[Tensor]) -> Result<Vec<Tensor>> {
    #[cfg(feature = "cuda")]
    if let Some(tensors) = contiguous(tensors, DType::BF16)? {
        return gpu::widen_all(&tensors);
    }
    let tensors = tensors.iter();
    tensors
        .map(|tensor| converted(tensor, DType::F32))
        .collect()
}

/// Computes the sum of squares over all tensors, an `f32` scalar on their device: it does not wait
/// for a GPU.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// let (x, y) = (Tensor::new(&[3f32], &Device::Cpu)?, Tensor::new(&[0f32, 4.0], &Device::Cpu)?);
/// let sum = perceiver_ops::sum_of_all_squares(&[&x, &y])?;
/// assert_eq!(sum.to_scalar::<f32>()?, 25.0);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// When there are no tensors.
pub fn sum_of_all_squares(tensors: &[&Tensor]) -> Result<Tensor> {
    let Some(first) = tensors.first() else {
        bail!("sum of squares: expected tensors, found none");
    };
    #[cfg(feature = "cuda")]
    if let Some(tensors) = contiguous(tensors.iter().copied(), DType::F32)? {
        return gpu::sum_of_squares(&tensors);
    }
    if first.device().is_cpu() {
        let sums = tensors.iter().map(|tensor| sum_of_squares(tensor));
        let sum: f64 = sums.sum::<Result<f64>>()?;
        return Tensor::new(sum as f32, first.device());
    }
    let sums = tensors
        .iter()
        .map(|tensor| tensor.detach().to_dtype(DType::F32)?.sqr()?.sum_all());
    let sums = sums.collect::<Result<Vec<_>>>()?;
    Tensor::stack(&sums, 0)?.sum_all()
}

#[cfg(feature = "cuda")]
fn are_on_gpu(parameters: &[ParameterStep<2>]) -> bool {
    let tensors = parameters.iter().flat_map(|each| {
        let [first, second] = each.moments;
        [each.parameter, first, second, each.gradient]
    });
    gpu::are_there(tensors, DType::F32)
}

/// Returns the tensors, contiguous and outside the graph, if kernels take them: of type `dtype` on
/// a GPU.
#[cfg(feature = "cuda")]
fn contiguous<'a>(
    tensors: impl IntoIterator<Item = &'a Tensor>,
    dtype: DType,
) -> Result<Option<Vec<Tensor>>> {
    let all = tensors.into_iter().map(|tensor| {
        let is_on_gpu = tensor.device().is_cuda();
        let tensor = tensor.detach();
        if is_on_gpu {
            tensor.contiguous()
        } else {
            Ok(tensor)
        }
    });
    let all = all.collect::<Result<Vec<_>>>()?;
    Ok(gpu::are_there(&all, dtype).then_some(all))
}
