//! A step of an optimizer for all parameters of a model: one or two kernels on NVIDIA's GPUs, elsewhere one parameter after another.

use candle_core::{DType, Result, Tensor, bail};

#[cfg(feature = "cuda")]
use crate::cuda::steps;
use crate::{AdamStep, LambStep, adam_step, decay, lamb_step, move_mean, sum_of_squares};

/// A parameter and what goes with it, all of one shape. Parameter and moments change where they are.
#[derive(Clone, Copy, Debug)]
pub struct ParameterStep<'a, const N: usize> {
    /// What is learned.
    pub parameter: &'a Tensor,
    /// What the optimizer keeps beside it.
    pub moments: &'a [Tensor; N],
    /// The gradient of the loss.
    pub gradient: &'a Tensor,
    /// The share of the parameter that decoupled weight decay takes beforehand: learning rate times decay.
    pub decay: f32,
    /// How much of the parameter is in LAMB's update, as [`LambStep::weight_decay`].
    pub weight_decay: f32,
}

/// [`adam_step`] for all parameters, after weight decay. Gradients are multiplied by `factor`, a scalar, if there is one.
///
/// # Errors
/// When the shapes differ or a tensor that changes is not contiguous.
pub fn adam_steps(
    parameters: &[ParameterStep<2>],
    step: AdamStep,
    factor: Option<&Tensor>,
) -> Result<()> {
    #[cfg(feature = "cuda")]
    if are_on_gpu(parameters) {
        return steps::adam(parameters, step, factor);
    }
    one_by_one(parameters, factor, |each, gradient| {
        let [first, second] = each.moments;
        adam_step(each.parameter, first, second, gradient, step)
    })
}

/// [`lamb_step`] for all parameters, after decoupled weight decay; each has its own [`LambStep::weight_decay`].
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
        return steps::lamb(parameters, step, factor);
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

/// [`move_mean`] for all pairs of a mean and a value.
///
/// # Errors
/// When the shapes of a pair differ or a mean is not contiguous.
pub fn move_means(pairs: &[(&Tensor, &Tensor)], rate: f32) -> Result<()> {
    #[cfg(feature = "cuda")]
    if steps::are_there(
        pairs.iter().flat_map(|(mean, value)| [*mean, value]),
        DType::F32,
    ) {
        return steps::move_means(pairs, rate);
    }
    let mut pairs = pairs.iter();
    pairs.try_for_each(|(mean, value)| move_mean(mean, value, rate))
}

/// Adds the second tensor of every pair to the first, which changes where it is. All have one type, and no tensor is in two pairs.
///
/// # Errors
/// When the sizes of a pair differ or a first tensor is not contiguous.
pub(crate) fn add_all(pairs: &[(&Tensor, &Tensor)]) -> Result<()> {
    #[cfg(feature = "cuda")]
    for dtype in [DType::F32, DType::BF16] {
        if steps::are_there(pairs.iter().flat_map(|(sum, share)| [*sum, share]), dtype) {
            return steps::add_all(pairs, dtype);
        }
    }
    let mut pairs = pairs.iter();
    pairs.try_for_each(|(sum, share)| copy_all(&[(*sum, &sum.add(share)?)]))
}

/// Gives the first tensor of every pair the values of the second, rounded to its own type. It changes where it is.
///
/// # Errors
/// When the sizes of a pair differ or a first tensor is not contiguous.
pub fn copy_all(pairs: &[(&Tensor, &Tensor)]) -> Result<()> {
    #[cfg(feature = "cuda")]
    if steps::are_there(pairs.iter().map(|pair| pair.0), DType::BF16)
        && steps::are_there(pairs.iter().map(|pair| pair.1), DType::F32)
    {
        return steps::narrow_all(pairs);
    }
    for (to, from) in pairs {
        let from = from.detach().flatten_all()?.to_dtype(to.dtype())?;
        to.detach().flatten_all()?.slice_set(&from, 0, 0)?;
    }
    Ok(())
}

/// The same values in `f32`.
///
/// # Errors
/// When the device has no room.
pub fn widen_all(tensors: &[Tensor]) -> Result<Vec<Tensor>> {
    #[cfg(feature = "cuda")]
    if let Some(tensors) = contiguous(tensors, DType::BF16)? {
        return steps::widen_all(&tensors);
    }
    let tensors = tensors.iter();
    tensors.map(|tensor| tensor.to_dtype(DType::F32)).collect()
}

/// The sum of the squares of all values of all tensors as a scalar of `f32` where they are: a GPU is not waited for.
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
/// When there are none.
pub fn sum_of_all_squares(tensors: &[&Tensor]) -> Result<Tensor> {
    let Some(first) = tensors.first() else {
        bail!("sum of all squares: expected tensors, found none");
    };
    #[cfg(feature = "cuda")]
    if let Some(tensors) = contiguous(tensors.iter().copied(), DType::F32)? {
        return steps::sum_of_squares(&tensors);
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
    steps::are_there(tensors, DType::F32)
}

/// The tensors outside the graph, side by side in memory, where kernels take them: of a type on a GPU.
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
    Ok(steps::are_there(&all, dtype).then_some(all))
}
