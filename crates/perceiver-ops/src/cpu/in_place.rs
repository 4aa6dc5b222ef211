//! In-place updates of CPU tensors.

use std::cell::Cell;

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, InplaceOp3, Layout, Result, Tensor, bail};

use crate::cpu;

/// Changes the values of a contiguous `f32` tensor on the CPU in place; `name` is the operation's
/// name in errors.
///
/// # Errors
/// When `target` is not such a tensor, and those of `by`.
pub fn change_values(
    name: &'static str,
    target: &Tensor,
    by: impl FnOnce(&mut [f32]) -> Result<()>,
) -> Result<()> {
    target.inplace_op1(&InPlace::new(name, by))
}

/// Changes a tensor in place by the values of another.
///
/// # Errors
/// When either is no contiguous `f32` tensor.
pub(crate) fn change_by_one(
    name: &'static str,
    target: &Tensor,
    other: &Tensor,
    by: impl FnOnce(&mut [f32], &[f32]),
) -> Result<()> {
    target.inplace_op2(other, &InPlace::new(name, by))
}

/// Changes a tensor in place by the values of two others.
///
/// # Errors
/// When one of the three is no contiguous `f32` tensor.
pub(crate) fn change_by_two(
    name: &'static str,
    target: &Tensor,
    [first, second]: [&Tensor; 2],
    by: impl FnOnce(&mut [f32], &[f32], &[f32]),
) -> Result<()> {
    target.inplace_op3(first, second, &InPlace::new(name, by))
}

/// Changes three tensors in place by the values of a fourth, in one pass through memory.
///
/// # Errors
/// When one of the four is no contiguous `f32` tensor.
pub(crate) fn change_three(
    name: &'static str,
    [one, two, three]: [&Tensor; 3],
    other: &Tensor,
    by: impl FnOnce([&mut [f32]; 3], &[f32]),
) -> Result<()> {
    // candle lends out one at a time.
    change_values(name, one, |one| {
        change_values(name, two, |two| {
            change_by_one(name, three, other, |three, other| {
                by([one, two, three], other);
            })
        })
    })
}

struct InPlace<F> {
    name: &'static str,
    by: Cell<Option<F>>,
}

impl<F> InPlace<F> {
    fn new(name: &'static str, by: F) -> Self {
        let by = Cell::new(Some(by));
        Self { name, by }
    }

    /// Takes the closure, which candle calls once.
    fn take(&self) -> Result<F> {
        match self.by.take() {
            Some(by) => Ok(by),
            None => bail!("{}: expected to be applied once, found twice", self.name),
        }
    }
}

impl<F: FnOnce(&mut [f32]) -> Result<()>> InplaceOp1 for InPlace<F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, target: &mut CpuStorage, layout: &Layout) -> Result<()> {
        (self.take()?)(cpu::values_mut(self.name, target, layout)?)
    }
}

impl<F: FnOnce(&mut [f32], &[f32])> InplaceOp2 for InPlace<F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        target: &mut CpuStorage,
        layout: &Layout,
        other: &CpuStorage,
        other_layout: &Layout,
    ) -> Result<()> {
        let other = cpu::values(self.name, other, other_layout)?;
        (self.take()?)(cpu::values_mut(self.name, target, layout)?, other);
        Ok(())
    }
}

impl<F: FnOnce(&mut [f32], &[f32], &[f32])> InplaceOp3 for InPlace<F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        target: &mut CpuStorage,
        layout: &Layout,
        first: &CpuStorage,
        first_layout: &Layout,
        second: &CpuStorage,
        second_layout: &Layout,
    ) -> Result<()> {
        let first = cpu::values(self.name, first, first_layout)?;
        let second = cpu::values(self.name, second, second_layout)?;
        (self.take()?)(cpu::values_mut(self.name, target, layout)?, first, second);
        Ok(())
    }
}
