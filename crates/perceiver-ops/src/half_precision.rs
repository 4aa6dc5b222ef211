//! Half precision (f16, bf16) on the CPU: conversions, and operations that convert to f32 and back.
//!
//! Every operation accumulates in f32; only its result is rounded to 16 bits. Operations that have
//! loops for bf16 ([`Floats`](crate::cpu::floats::Floats)) convert a few values at a time. Products
//! of bf16 matrices read bf16 where the CPU has instructions for it
//! ([`unpacked`](crate::matmul::unpacked)). What has neither, and `f16`, is computed on copies in
//! f32: see [`widened`].

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor, bail};
use half::bf16;

use crate::autograd::recorded_ops::{apply_op1, to_dtype};
use crate::cpu::TASK;
use crate::cpu::floats::{Floats, with_floats};
use crate::cpu::output::computed;
use crate::cpu::simd::vectorised;
use crate::matmul::rounding::rounded;

/// Returns the values of a contiguous bf16 tensor on the CPU.
///
/// # Errors
/// When the tensor has another type or is not contiguous; callers make theirs contiguous.
pub(crate) fn narrow_values<'a>(
    op: &'static str,
    storage: &'a CpuStorage,
    layout: &Layout,
) -> Result<&'a [bf16]> {
    Floats::of(op, storage, layout)?.bf16s(op)
}

/// Calls `compute` with the values of contiguous bf16 tensors.
///
/// # Errors
/// As for [`narrow_values`], and when a tensor is not on the CPU.
pub(crate) fn with_narrow_values<const N: usize, R>(
    op: &'static str,
    tensors: [&Tensor; N],
    compute: impl FnOnce([&[bf16]; N]) -> R,
) -> Result<R> {
    with_floats(op, tensors, |floats| {
        let mut slices = [&[][..]; N];
        for (slice, floats) in slices.iter_mut().zip(floats) {
            *slice = floats.bf16s(op)?;
        }
        Ok(compute(slices))
    })?
}

/// Returns whether the tensor has a 16-bit type.
pub(crate) fn is_narrow(tensor: &Tensor) -> bool {
    matches!(tensor.dtype(), DType::BF16 | DType::F16)
}

/// Returns whether the tensor has a 16-bit type on a device without products of that type.
pub(crate) fn is_narrow_on_cpu(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && is_narrow(tensor)
}

/// Calls `compute` with the tensors in `f32` and rounds the result to the type of the first.
pub(crate) fn widened<const N: usize>(
    tensors: [&Tensor; N],
    compute: impl FnOnce([&Tensor; N]) -> Result<Tensor>,
) -> Result<Tensor> {
    let wide: Vec<Tensor> = tensors
        .iter()
        .map(|tensor| in_dtype(tensor, DType::F32))
        .collect::<Result<_>>()?;
    let result = compute(std::array::from_fn(|at| &wide[at]))?;
    in_dtype(&result, tensors[0].dtype())
}

/// Converts the type, on all cores between `f32` and `bf16`.
fn in_dtype(x: &Tensor, dtype: DType) -> Result<Tensor> {
    if converts(x, dtype) {
        return apply_op1(&x.contiguous()?, Convert);
    }
    to_dtype(x, dtype)
}

/// Converts the type outside any graph, on all cores between `f32` and `bf16`.
pub(crate) fn converted(x: &Tensor, dtype: DType) -> Result<Tensor> {
    if converts(x, dtype) {
        return x.detach().contiguous()?.apply_op1_no_bwd(&Convert);
    }
    x.detach().to_dtype(dtype)
}

fn converts(x: &Tensor, dtype: DType) -> bool {
    let types = [x.dtype(), dtype];
    x.device().is_cpu() && [[DType::F32, DType::BF16], [DType::BF16, DType::F32]].contains(&types)
}

/// The conversion of `f32` to `bf16`, and of `bf16` to `f32`.
struct Convert;

impl CustomOp1 for Convert {
    fn name(&self) -> &'static str {
        "convert"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!(
                "{}: expected contiguous values, found {layout:?}",
                self.name()
            );
        };
        let converted = match x {
            CpuStorage::F32(x) => {
                let x = &x[start..end];
                CpuStorage::BF16(in_tasks(x.len(), |part, y| narrow(&x[part], y)))
            }
            CpuStorage::BF16(x) => {
                let x = &x[start..end];
                CpuStorage::F32(in_tasks(x.len(), |part, y| widen(&x[part], y)))
            }
            _ => bail!("{}: expected f32 or bf16 values", self.name()),
        };
        Ok((converted, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _output: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        converted(grad, x.dtype()).map(Some)
    }
}

/// Adds tensors outside any graph, on all cores if they are `bf16` on the CPU.
pub(crate) fn added(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let are_narrow = [a, b]
        .into_iter()
        .all(|x| x.device().is_cpu() && x.dtype() == DType::BF16);
    if are_narrow && a.dims() == b.dims() {
        return a.contiguous()?.apply_op2_no_bwd(&b.contiguous()?, &Add);
    }
    Ok(a.add(b)?.detach())
}

/// The sum of two `bf16` tensors of one shape.
struct Add;

impl CustomOp2 for Add {
    fn name(&self) -> &'static str {
        "add-bf16"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (CpuStorage::BF16(a), CpuStorage::BF16(b)) = (a, b) else {
            bail!("{}: expected bf16 values", self.name());
        };
        let (Some((a_start, a_end)), Some((b_start, b_end))) =
            (a_layout.contiguous_offsets(), b_layout.contiguous_offsets())
        else {
            bail!("{}: expected contiguous values", self.name());
        };
        let (a, b) = (&a[a_start..a_end], &b[b_start..b_end]);
        let sums = in_tasks(a.len(), |part, sums| add(&a[part.clone()], &b[part], sums));
        Ok((CpuStorage::BF16(sums), a_layout.shape().clone()))
    }
}

/// Computes values on all cores, from the range of those that a task computes.
fn in_tasks<T: Copy + Default + Send>(
    len: usize,
    compute: impl Fn(Range<usize>, &mut [T]) + Sync + Send,
) -> Vec<T> {
    computed(
        len,
        TASK,
        || (),
        |(), number, output| {
            let first = number * TASK;
            compute(first..first + output.len(), output);
        },
    )
}

vectorised! {
    /// Rounds values.
    pub(crate) fn narrow(from: &[f32], to: &mut [bf16]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = rounded(*from);
        }
    }

    /// Converts values to `f32`.
    pub(crate) fn widen(from: &[bf16], to: &mut [f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = wide(*from);
        }
    }

    fn add(a: &[bf16], b: &[bf16], sums: &mut [bf16]) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum = rounded(wide(*a) + wide(*b));
        }
    }
}

/// Converts a value to `f32`.
#[inline(always)]
pub(crate) fn wide(value: bf16) -> f32 {
    f32::from_bits(u32::from(value.to_bits()) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn conversions_are_those_of_candle() {
        let values = (0..40_000).map(|i| (i as f32 - 20_000.0) / 7.0);
        let x = Tensor::from_iter(values, &Device::Cpu).unwrap();
        let x = x.reshape((200, 200)).unwrap().t().unwrap();
        let x = x.narrow(0, 3, 150).unwrap();
        let expected = x.to_dtype(DType::BF16).unwrap();
        let found = converted(&x, DType::BF16).unwrap();
        let bits = |x: &Tensor| -> Vec<u16> {
            let rows: Vec<Vec<bf16>> = x.to_vec2().unwrap();
            rows.iter().flatten().map(|value| value.to_bits()).collect()
        };
        assert_eq!(bits(&found), bits(&expected));
        let wide = converted(&found, DType::F32).unwrap();
        let rows = |x: &Tensor| x.to_vec2::<f32>().unwrap();
        assert_eq!(rows(&wide), rows(&expected.to_dtype(DType::F32).unwrap()));
    }

    #[test]
    fn sums_are_those_of_candle() {
        let tensor = |factor: f32| {
            let values = (0..40_000).map(|i| (i as f32 - 20_000.0) * factor);
            let x = Tensor::from_iter(values, &Device::Cpu).unwrap();
            x.to_dtype(DType::BF16).unwrap()
        };
        let (a, b) = (tensor(0.3), tensor(-0.07));
        let bits = |x: &Tensor| -> Vec<u16> {
            let values: Vec<bf16> = x.to_vec1().unwrap();
            values.into_iter().map(bf16::to_bits).collect()
        };
        assert_eq!(bits(&added(&a, &b).unwrap()), bits(&a.add(&b).unwrap()));
    }

    #[test]
    fn gradients_pass_conversions() {
        let x = Var::new(&[1f32, 2.0], &Device::Cpu).unwrap();
        let narrow = in_dtype(&x, DType::BF16).unwrap();
        let wide = in_dtype(&narrow, DType::F32).unwrap();
        let gradients = wide.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let gradient = gradients.get(&x).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(gradient, [2.0, 4.0]);
    }
}
