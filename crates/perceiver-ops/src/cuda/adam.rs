//! A step of Adam where the tensors are.

use std::cell::Cell;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use candle_core::{CpuStorage, CudaStorage, InplaceOp1, InplaceOp2, Layout, Result, Tensor, bail};

use super::launch::{MODULE, all, compiled};
use crate::AdamStep;

/// Changes contiguous `f32` tensors of one shape as [`crate::adam_step`] does.
///
/// # Errors
/// When one is another.
pub(crate) fn adam(
    parameter: &Tensor,
    first: &Tensor,
    second: &Tensor,
    gradient: &Tensor,
    step: AdamStep,
) -> Result<()> {
    let len = parameter.elem_count();
    // candle lends out one at a time.
    change(parameter, |parameter, p| {
        change(first, |first, f| {
            change_by(second, gradient, |second, s, gradient, g| {
                let device = &parameter.device;
                let function = device.get_or_load_custom_func("adam_f32", MODULE, compiled()?)?;
                let mut parameter = parameter.as_cuda_slice_mut::<f32>()?.slice_mut(range(p)?);
                let mut first = first.as_cuda_slice_mut::<f32>()?.slice_mut(range(f)?);
                let mut second = second.as_cuda_slice_mut::<f32>()?.slice_mut(range(s)?);
                let gradient = &gradient.as_cuda_slice::<f32>()?.slice(range(g)?);
                let count = len as u64;
                let mut arguments = function.builder();
                arguments
                    .arg(&mut parameter)
                    .arg(&mut first)
                    .arg(&mut second)
                    .arg(gradient);
                arguments
                    .arg(&count)
                    .arg(&step.first_rate)
                    .arg(&step.second_rate);
                arguments.arg(&step.step_size).arg(&step.epsilon);
                // SAFETY: these are the arguments that `kernels.cu` declares, and each has `len` values.
                #[allow(unsafe_code)]
                unsafe { arguments.launch(all(len)) }.w()?;
                Ok(())
            })
        })
    })
}

/// The values of a contiguous tensor in its storage.
fn range(layout: &Layout) -> Result<std::ops::Range<usize>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(start..end),
        None => bail!("adam: expected contiguous values, found {layout:?}"),
    }
}

fn change(target: &Tensor, by: impl FnOnce(&mut CudaStorage, &Layout) -> Result<()>) -> Result<()> {
    target.inplace_op1(&OnGpu(Cell::new(Some(by))))
}

fn change_by(
    target: &Tensor,
    other: &Tensor,
    by: impl FnOnce(&mut CudaStorage, &Layout, &CudaStorage, &Layout) -> Result<()>,
) -> Result<()> {
    target.inplace_op2(other, &OnGpu(Cell::new(Some(by))))
}

/// A change that is made once.
struct OnGpu<F>(Cell<Option<F>>);

impl<F: FnOnce(&mut CudaStorage, &Layout) -> Result<()>> InplaceOp1 for OnGpu<F> {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn cpu_fwd(&self, _target: &mut CpuStorage, _layout: &Layout) -> Result<()> {
        bail!("adam: expected a tensor on a GPU")
    }

    fn cuda_fwd(&self, target: &mut CudaStorage, layout: &Layout) -> Result<()> {
        match self.0.take() {
            Some(by) => by(target, layout),
            None => bail!("adam: expected one change, found a second"),
        }
    }
}

impl<F: FnOnce(&mut CudaStorage, &Layout, &CudaStorage, &Layout) -> Result<()>> InplaceOp2
    for OnGpu<F>
{
    fn name(&self) -> &'static str {
        "adam"
    }

    fn cpu_fwd(
        &self,
        _target: &mut CpuStorage,
        _layout: &Layout,
        _other: &CpuStorage,
        _other_layout: &Layout,
    ) -> Result<()> {
        bail!("adam: expected tensors on a GPU")
    }

    fn cuda_fwd(
        &self,
        target: &mut CudaStorage,
        layout: &Layout,
        other: &CudaStorage,
        other_layout: &Layout,
    ) -> Result<()> {
        match self.0.take() {
            Some(by) => by(target, layout, other, other_layout),
            None => bail!("adam: expected one change, found a second"),
        }
    }
}
