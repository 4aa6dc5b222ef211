//! Contiguous values in `f32` or bf16, and loops over them that compute in `f32`.

use std::ops::Range;

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor, bail};
use half::bf16;

use super::output::computed;
use super::rows_per_task;
use crate::half_precision::{narrow, widen};

/// Number of bf16 values converted at a time: few enough that they stay in the first-level cache.
const PIECE: usize = 2048;

/// Contiguous values of a tensor.
#[derive(Clone, Copy)]
pub(crate) enum Floats<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

/// Returns whether loops over [`Floats`] apply to all of the tensors, which need one type.
pub(crate) fn are_floats<const N: usize>(tensors: [&Tensor; N]) -> bool {
    let dtype = tensors[0].dtype();
    let is_known = matches!(dtype, DType::F32 | DType::BF16);
    is_known
        && tensors
            .into_iter()
            .all(|x| x.device().is_cpu() && x.dtype() == dtype)
}

impl<'a> Floats<'a> {
    /// Returns the values of a contiguous tensor.
    ///
    /// # Errors
    /// When it has another type or is not contiguous; callers make theirs contiguous.
    pub(crate) fn of(op: &'static str, storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("{op}: expected contiguous values, found {layout:?}");
        };
        match storage {
            CpuStorage::F32(values) => Ok(Self::F32(&values[start..end])),
            CpuStorage::BF16(values) => Ok(Self::Bf16(&values[start..end])),
            _ => bail!("{op}: expected f32 or bf16 values"),
        }
    }

    /// Returns the values if they are `f32`.
    ///
    /// # Errors
    /// When they are bf16.
    pub(crate) fn f32s(self, op: &'static str) -> Result<&'a [f32]> {
        match self {
            Self::F32(values) => Ok(values),
            Self::Bf16(_) => bail!("{op}: expected f32 values, found bf16"),
        }
    }

    /// Returns the values if they are bf16.
    ///
    /// # Errors
    /// When they are `f32`.
    pub(crate) fn bf16s(self, op: &'static str) -> Result<&'a [bf16]> {
        match self {
            Self::Bf16(values) => Ok(values),
            Self::F32(_) => bail!("{op}: expected bf16 values, found f32"),
        }
    }

    pub(crate) fn len(self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }

    /// Returns some of the values in `f32`, in the buffer if they have to be converted.
    pub(crate) fn wide<'b>(self, range: Range<usize>, buffer: &'b mut Vec<f32>) -> &'b [f32]
    where
        'a: 'b,
    {
        match self {
            Self::F32(values) => &values[range],
            Self::Bf16(values) => {
                buffer.resize(range.len(), 0.0);
                widen(&values[range], buffer);
                buffer
            }
        }
    }
}

/// Calls `compute` with the values of contiguous tensors: a backward pass gets tensors instead of
/// storages.
///
/// # Errors
/// As for [`Floats::of`], and when a tensor is not on the CPU.
pub(crate) fn with_floats<const N: usize, R>(
    op: &'static str,
    tensors: [&Tensor; N],
    compute: impl FnOnce([Floats; N]) -> R,
) -> Result<R> {
    let guards = tensors.map(Tensor::storage_and_layout);
    let mut floats = [Floats::F32(&[]); N];
    for (floats, (storage, layout)) in floats.iter_mut().zip(&guards) {
        let Storage::Cpu(storage) = &**storage else {
            bail!("{op}: expected tensors on the CPU");
        };
        *floats = Floats::of(op, storage, layout)?;
    }
    Ok(compute(floats))
}

/// Computes values from inputs of the same length, in the type of the first and in parallel.
/// `compute` gets the index of the first value and whole units: rows, or single values.
pub(crate) fn map<const N: usize>(
    inputs: [Floats; N],
    unit: usize,
    compute: impl Fn(usize, [&[f32]; N], &mut [f32]) + Sync,
) -> CpuStorage {
    let (len, unit) = (inputs[0].len(), unit.max(1));
    let task = rows_per_task(unit) * unit;
    let run = |first: usize, output: &mut [f32], buffers: &mut [Vec<f32>; N]| {
        let range = first..first + output.len();
        let mut buffers = buffers.iter_mut();
        let inputs = inputs.map(|input| {
            let buffer = buffers.next().expect("a buffer for each input");
            input.wide(range.clone(), buffer)
        });
        compute(first, inputs, output);
    };
    let buffers = || [(); N].map(|()| Vec::new());
    match inputs[0] {
        Floats::F32(_) => {
            let output = computed(len, task, buffers, |buffers, number, output| {
                run(number * task, output, buffers);
            });
            CpuStorage::F32(output)
        }
        Floats::Bf16(_) => {
            let piece = (PIECE / unit).max(1) * unit;
            let init = || (buffers(), vec![0f32; piece.min(task)]);
            let output = computed(len, task, init, |(buffers, wide), number, output| {
                for (at, output) in output.chunks_mut(piece).enumerate() {
                    let wide = &mut wide[..output.len()];
                    run(number * task + at * piece, wide, buffers);
                    narrow(wide, output);
                }
            });
            CpuStorage::BF16(output)
        }
    }
}

/// Computes values from inputs of other lengths, in the type of the first and in parallel. Every
/// input is given with the number of its values that `compute` gets for `unit` values.
pub(crate) fn map_units<const N: usize>(
    inputs: [(Floats, usize); N],
    unit: usize,
    compute: impl Fn([&[f32]; N], &mut [f32]) + Sync,
) -> CpuStorage {
    let len = inputs[0].0.len() / inputs[0].1.max(1) * unit;
    let run = |number: usize, output: &mut [f32], buffers: &mut [Vec<f32>; N]| {
        let mut buffers = buffers.iter_mut();
        let inputs = inputs.map(|(input, unit)| {
            let buffer = buffers.next().expect("a buffer for each input");
            input.wide(number * unit..(number + 1) * unit, buffer)
        });
        compute(inputs, output);
    };
    let buffers = || [(); N].map(|()| Vec::new());
    match inputs[0].0 {
        Floats::F32(_) => {
            let output = computed(len, unit, buffers, |buffers, number, output| {
                run(number, output, buffers);
            });
            CpuStorage::F32(output)
        }
        Floats::Bf16(_) => {
            let init = || (buffers(), vec![0f32; unit]);
            let output = computed(len, unit, init, |(buffers, wide), number, output| {
                run(number, wide, buffers);
                narrow(wide, output);
            });
            CpuStorage::BF16(output)
        }
    }
}

/// Returns values in the type of a storage like `like`.
pub(crate) fn storage_like(like: Floats, values: Vec<f32>) -> CpuStorage {
    match like {
        Floats::F32(_) => CpuStorage::F32(values),
        Floats::Bf16(_) => {
            let mut narrowed = vec![bf16::ZERO; values.len()];
            narrow(&values, &mut narrowed);
            CpuStorage::BF16(narrowed)
        }
    }
}
