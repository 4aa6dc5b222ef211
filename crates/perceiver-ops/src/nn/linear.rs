//! The fully connected layer `y = x W^T + b` as one operation, with a backward pass.
//!
//! `dx = dy W`, `dW = dy^T x`, `db = sum_rows dy`. Composed of candle's operations, the backward
//! pass transposes `dW` value by value on one thread, for every layer in every step.

mod bf16;
#[cfg(feature = "cuda")]
mod gpu;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, D, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::autograd::recorded_ops::apply_op3;
use crate::cpu::gemm::{Matrix, Sum, Target};
use crate::cpu::transpose::transposed;
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::half_precision::{is_narrow_on_cpu, widened};
use crate::matmul::kernel::Bf16Kernel;
use crate::matmul::right::{Left, Products, Right};
use crate::nn::broadcast::{SumSlices, add_bias_composed};
use crate::nn::linear::bf16::LinearBf16;
use crate::{cpu, gelu};

/// Number of rows per task of a large batch; fixed, so that results do not depend on the number of
/// threads.
const TASK_ROWS: usize = 256;

/// Returns the number of rows per task: few for a single image, so that all cores have work.
fn task_rows(rows: usize) -> usize {
    if rows < 4 * TASK_ROWS { 64 } else { TASK_ROWS }
}

/// Computes `x W^T + b` for `x` `[..., inputs]`, `weight` `[outputs, inputs]` and `bias`
/// `[outputs]`: `[..., outputs]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    check(x, weight, bias)?;
    if let Some(kernel) = Bf16Kernel::of([x, weight, bias]) {
        let op = LinearBf16(kernel);
        return apply_op3(&x.contiguous()?, weight, &bias.contiguous()?, op);
    }
    if is_narrow_on_cpu(x) {
        let products = Products::of(x.dtype());
        return widened([x, weight, bias], |[x, weight, bias]| {
            linear_in(products, x, weight, bias)
        });
    }
    #[cfg(feature = "cuda")]
    if are_on_gpu(x, weight, bias) {
        return gpu::linear(&x.contiguous()?, weight, bias, false);
    }
    linear_in(Products::F32, x, weight, bias)
}

/// Computes [`linear`] on the CPU with the given products, or by candle's operations.
fn linear_in(products: Products, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    if cpu::has_kernels(x) && cpu::has_kernels(weight) && cpu::has_kernels(bias) {
        let weight = if is_by_inputs(weight) {
            weight.clone()
        } else {
            weight.contiguous()?
        };
        apply_op3(
            &x.contiguous()?,
            &weight,
            &bias.contiguous()?,
            Linear(products),
        )
    } else {
        linear_composed(x, weight, bias)
    }
}

/// Computes [`gelu`] of [`linear`]; on NVIDIA GPUs, bias and GELU are one kernel.
///
/// # Errors
/// When the shapes do not fit.
pub fn linear_gelu(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if are_on_gpu(x, weight, bias) {
        check(x, weight, bias)?;
        return gpu::linear(&x.contiguous()?, weight, bias, true);
    }
    gelu(&linear(x, weight, bias)?)
}

/// Copies a weight `[outputs, inputs]` into the order in which [`linear`] reads it, by inputs, outside
/// any graph, so that no call transposes it: in a Perceiver IO model's pass on one image, that took
/// 8% of the time. Values and results stay the same. On a GPU, it returns the weight as it is.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use perceiver_ops::by_inputs;
///
/// let weight = Tensor::new(&[[1f32, 2.0, 3.0], [4.0, 5.0, 6.0]], &Device::Cpu)?;
/// let copy = by_inputs(&weight)?;
/// assert_eq!(copy.to_vec2::<f32>()?, weight.to_vec2::<f32>()?);
/// assert_eq!(copy.stride(), [1, 2]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// When the weight is no matrix.
pub fn by_inputs(weight: &Tensor) -> Result<Tensor> {
    let (outputs, inputs) = weight.dims2()?;
    let weight = weight.detach();
    if !cpu::has_kernels(&weight) || is_by_inputs(&weight) {
        return Ok(weight);
    }
    let columns = cpu::with_values("by-inputs", [&weight.contiguous()?], |[values]| {
        transposed(Matrix::new(values, outputs, inputs))
    })?;
    Tensor::from_vec(columns, (inputs, outputs), weight.device())?.t()
}

/// Returns whether a weight `[outputs, inputs]` is in memory as its transpose, row by row.
fn is_by_inputs(weight: &Tensor) -> bool {
    weight.layout().is_fortran_contiguous()
}

fn check(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<()> {
    let inputs = x.dim(D::Minus1)?;
    let (outputs, expected) = weight.dims2()?;
    if inputs != expected || bias.dims() != [outputs] {
        bail!(
            "linear: shapes {:?}, {:?} and {:?} do not fit: expected [..., inputs], [outputs, inputs] and [outputs]",
            x.dims(),
            weight.dims(),
            bias.dims()
        );
    }
    Ok(())
}

#[cfg(feature = "cuda")]
fn are_on_gpu(x: &Tensor, weight: &Tensor, bias: &Tensor) -> bool {
    let is = |tensor: &Tensor| tensor.dtype() == x.dtype() && tensor.is_contiguous();
    cuda::has_kernels(x) && is(weight) && is(bias)
}

/// Computes [`linear`] by candle's operations: the fallback for devices without a kernel, and the
/// reference in tests.
pub fn linear_composed(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (outputs, inputs) = weight.dims2()?;
    let rows = x.elem_count() / inputs.max(1);
    let product = x.reshape((rows, inputs))?.matmul(&weight.t()?)?; // [rows, outputs]
    add_bias_composed(&product, bias)?.reshape(with_width(x.dims(), outputs))
}

/// Returns the shape `dims` with another width.
pub(crate) fn with_width(dims: &[usize], width: usize) -> Shape {
    let leading = &dims[..dims.len() - 1];
    Shape::from([leading, &[width]].concat())
}

/// Multiplies `x` `[rows, inputs]` by `matrix` `[inputs, outputs]` and adds the bias, into `output`
/// `[rows, outputs]`, many rows in parallel.
fn multiply_rows(
    x: &[f32],
    matrix: &Right,
    [inputs, outputs]: [usize; 2],
    bias: Option<&[f32]>,
    output: &mut [f32],
) {
    let (inputs, outputs) = (inputs.max(1), outputs.max(1));
    let task = task_rows(x.len() / inputs);
    output
        .par_chunks_mut(task * outputs)
        .zip(x.par_chunks(task * inputs))
        .for_each(|(output, x)| {
            let rows = Matrix::new(x, x.len() / inputs, inputs);
            matrix.multiply_rows(rows, bias, output);
        });
}

struct Linear(Products);

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = cpu::values(self.name(), x, x_layout)?;
        let bias = cpu::values(self.name(), bias, bias_layout)?;
        let (outputs, inputs) = weight_layout.shape().dims2()?;
        let mut output = cpu::zeros(x.len() / inputs * outputs);
        let matrix = if weight_layout.is_fortran_contiguous() {
            let columns = cpu::values(self.name(), weight, &weight_layout.transpose(0, 1)?)?;
            Right::new(self.0, Matrix::new(columns, inputs, outputs))
        } else {
            let weight = cpu::values(self.name(), weight, weight_layout)?;
            Right::transposed(self.0, Matrix::new(weight, outputs, inputs))
        };
        multiply_rows(x, &matrix, [inputs, outputs], Some(bias), &mut output);
        Ok((
            CpuStorage::F32(output),
            with_width(x_layout.dims(), outputs),
        ))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        // Nothing uses the gradient of an image's values.
        let dx = if x.track_op() {
            Some(grad.apply_op2_no_bwd(&weight.contiguous()?, &InputGradient(self.0))?)
        } else {
            None
        };
        let dweight = grad.apply_op2_no_bwd(x, &WeightGradient(self.0))?;
        let dbias = grad.apply_op2_no_bwd(bias, &SumSlices)?;
        Ok((dx, Some(dweight), Some(dbias)))
    }
}

/// The operation `(dy, W) -> dy W`.
struct InputGradient(Products);

impl CustomOp2 for InputGradient {
    fn name(&self) -> &'static str {
        "linear-input-gradient"
    }

    fn cpu_fwd(
        &self,
        grad: &CpuStorage,
        grad_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let grad = cpu::values(self.name(), grad, grad_layout)?;
        let weight = cpu::values(self.name(), weight, weight_layout)?;
        let (outputs, inputs) = weight_layout.shape().dims2()?;
        let mut dx = cpu::zeros(grad.len() / outputs * inputs);
        let matrix = Right::new(self.0, Matrix::new(weight, outputs, inputs));
        multiply_rows(grad, &matrix, [outputs, inputs], None, &mut dx);
        Ok((CpuStorage::F32(dx), with_width(grad_layout.dims(), inputs)))
    }
}

/// The operation `(dy, x) -> dy^T x`.
struct WeightGradient(Products);

impl CustomOp2 for WeightGradient {
    fn name(&self) -> &'static str {
        "linear-weight-gradient"
    }

    fn cpu_fwd(
        &self,
        grad: &CpuStorage,
        grad_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let grad = cpu::values(self.name(), grad, grad_layout)?;
        let x = cpu::values(self.name(), x, x_layout)?;
        let width = |layout: &Layout| layout.dims().last().copied().unwrap_or(1);
        let (outputs, inputs) = (width(grad_layout), width(x_layout));
        let rows = |grad: &'_ [f32]| grad.len() / outputs;
        let chunks = grad.par_chunks(TASK_ROWS * outputs);
        let columns: Vec<Left> = chunks
            .map(|grad| Left::transposed(self.0, Matrix::new(grad, rows(grad), outputs)))
            .collect();
        let pairs: Vec<_> = columns
            .iter()
            .zip(x.chunks(TASK_ROWS * inputs))
            .map(|(columns, x)| (columns.matrix(), Matrix::new(x, x.len() / inputs, inputs)))
            .collect();
        let mut dweight = vec![0f32; outputs * inputs];
        weight_gradient(self.0, &pairs, &mut dweight);
        Ok((CpuStorage::F32(dweight), Shape::from((outputs, inputs))))
    }
}

/// Adds the products of all pairs of matrices to `sums`. A task sums some rows of the result, pair
/// after pair, so the order of the sum does not depend on threads.
fn weight_gradient(products: Products, pairs: &[(Matrix, Matrix)], sums: &mut [f32]) {
    // Of bf16, whole tiles of every kernel, and few enough rows that all cores have work.
    let task = if products == Products::F32 { 128 } else { 96 };
    let width = pairs.first().map_or(1, |(_, rhs)| rhs.columns);
    let pairs: Vec<_> = pairs
        .par_iter()
        .map(|(lhs, rhs)| (*lhs, Right::new(products, *rhs)))
        .collect();
    sums.par_chunks_mut(task * width)
        .enumerate()
        .for_each(|(block, sums)| {
            for (lhs, rhs) in &pairs {
                let lhs = Matrix {
                    values: &lhs.values[block * task * lhs.row_stride..],
                    rows: sums.len() / width,
                    ..*lhs
                };
                let target = Target {
                    values: &mut *sums,
                    row_stride: width,
                };
                rhs.multiply(target, Sum::Add, lhs, 1.0);
            }
        });
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Var};

    #[test]
    fn linear_matches_hand_computed_values() {
        let x = Tensor::new(&[[1f32, 2.0]], &Device::Cpu).unwrap();
        let weight = Tensor::new(&[[10f32, 1.0], [0.0, 1.0], [1.0, 0.0]], &Device::Cpu).unwrap();
        let bias = Tensor::new(&[100f32, 200.0, 300.0], &Device::Cpu).unwrap();
        let y = linear(&x, &weight, &bias)
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        assert_eq!(y, [[112.0, 202.0, 301.0]]);
    }

    /// A weight stored by inputs gives the same bits, and gradients.
    #[test]
    fn the_order_of_a_weight_in_memory_does_not_matter() {
        for (rows, inputs, outputs) in [(3, 5, 4), (300, 33, 40), (2, 1, 3), (2, 3, 1)] {
            let values = |count: usize| (0..count).map(|i| ((i * 37) % 19) as f32 / 19.0 - 0.5);
            let tensor = |shape: &[usize]| {
                let values = values(shape.iter().product());
                let values = Tensor::from_iter(values, &Device::Cpu).unwrap();
                values.reshape(shape).unwrap()
            };
            let x = Var::from_tensor(&tensor(&[rows, inputs])).unwrap();
            let weight = tensor(&[outputs, inputs]);
            let copy = by_inputs(&weight).unwrap();
            assert!(copy.t().unwrap().is_contiguous());
            let bias = tensor(&[outputs]);
            let [expected, found] = [&weight, &copy].map(|w| linear(&x, w, &bias).unwrap());
            let rows = |y: &Tensor| y.to_vec2::<f32>().unwrap();
            assert_eq!(rows(&found), rows(&expected));
            let [expected, found] = [expected, found].map(|y| {
                let gradients = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
                rows(gradients.get(&x).unwrap())
            });
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn mismatched_shapes_are_rejected() {
        let zeros =
            |rows, columns| Tensor::zeros((rows, columns), DType::F32, &Device::Cpu).unwrap();
        let bias = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
        let error = linear(&zeros(2, 5), &zeros(3, 4), &bias)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("[2, 5], [3, 4] and [3] do not fit"),
            "{error}"
        );
    }
}
