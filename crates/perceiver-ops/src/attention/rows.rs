//! Attention of whole tensors: all heads of an image in one product where they share keys and values.
//!
//! The rows of logits are then those of queries, of heads, `[batch, queries * heads, keys]`: nothing is copied to split heads or to join
//! them. Between the products, softmax, its factor and dropout are one operation.

#[cfg(feature = "cuda")]
use candle_core::backend::BackendStorage;
#[cfg(feature = "cuda")]
use candle_core::{CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Shape, bail};
use candle_core::{D, DType, Result, Tensor};

use super::mask::Mask;
use super::products;
use super::shape::Geometry;
use crate::{Transpose, batched_matmul_composed, cuda, softmax};

/// How the rows of logits lie, and what falls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    pub(crate) g: Geometry,
    pub(crate) mask: Option<Mask>,
    /// Whether they are `[batch, heads, queries, keys]`, for heads that have keys of their own.
    pub(crate) by_head: bool,
}

/// What `queries` `[batch, n, heads * width]` read by `keys` from `values`, of sizes that were checked: `[batch, n, heads * value_width]`.
pub(crate) fn read(
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    g: Geometry,
    mask: Option<Mask>,
) -> Result<Tensor> {
    let by_head = g.kv_heads > 1;
    let rows = Rows { g, mask, by_head };
    let split = |x: &Tensor, length: usize| {
        let heads = x.reshape((g.batch, length, g.heads, ()))?;
        heads.transpose(1, 2)?.contiguous() // [batch, heads, length, width]
    };
    let outputs = (g.batch, g.queries, g.heads * g.value_width);
    if by_head {
        let [queries, keys, values] = [(queries, g.queries), (keys, g.keys), (values, g.keys)]
            .map(|(tensor, length)| split(tensor, length));
        let read = of_rows(&queries?, &keys?, &values?, rows)?;
        return read.transpose(1, 2)?.contiguous()?.reshape(outputs);
    }
    let queries = queries.reshape((g.batch, g.queries * g.heads, g.width))?;
    of_rows(&queries, keys, values, rows)?.reshape(outputs)
}

fn of_rows(queries: &Tensor, keys: &Tensor, values: &Tensor, rows: Rows) -> Result<Tensor> {
    if cuda::has_kernels(queries) {
        return products::attention(queries, keys, values, rows);
    }
    let logits = batched_matmul_composed(queries, keys, Transpose::Right)?;
    let probabilities = softmax_composed(&logits, rows)?;
    batched_matmul_composed(&probabilities, values, Transpose::Neither)
}

/// `softmax(scale * logits)` of logits in `f32`, of which dropout takes its part, in a type.
pub(crate) fn softmax_dropout(logits: &Tensor, rows: Rows, dtype: DType) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if logits.device().is_cuda() {
        return logits.apply_op1_no_bwd(&SoftmaxDropout { rows, dtype });
    }
    softmax_composed(logits, rows)?.to_dtype(dtype)
}

/// The gradient of the logits, of the type of that of the probabilities.
pub(crate) fn softmax_dropout_backward(
    logits: &Tensor,
    grad: &Tensor,
    rows: Rows,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if logits.device().is_cuda() {
        return logits.apply_op2_no_bwd(grad, &SoftmaxDropoutBackward(rows));
    }
    let Rows { g, mask, .. } = rows;
    let probabilities = softmax_composed(logits, Rows { mask: None, ..rows })?;
    let dtype = grad.dtype();
    let mut grad = grad.to_dtype(DType::F32)?;
    if let Some(mask) = mask {
        grad = (grad * factors(mask, rows, logits)?)?;
    }
    let dot = (&probabilities * &grad)?.sum_keepdim(D::Minus1)?;
    let logits = ((probabilities * grad.broadcast_sub(&dot)?)? * f64::from(g.scale))?;
    logits.to_dtype(dtype)
}

/// `softmax(scale * logits)`, of which dropout takes its part.
pub(crate) fn softmax_composed(logits: &Tensor, rows: Rows) -> Result<Tensor> {
    let probabilities = softmax::softmax_composed(&(logits * f64::from(rows.g.scale))?)?;
    match rows.mask {
        None => Ok(probabilities),
        Some(mask) => probabilities * factors(mask, rows, logits)?,
    }
}

/// What probabilities that lie as `like` are multiplied by, of its type.
fn factors(mask: Mask, Rows { g, by_head, .. }: Rows, like: &Tensor) -> Result<Tensor> {
    let by_heads = (g.batch, g.heads, g.queries, g.keys);
    let mut factors = Tensor::from_vec(mask.factors(g), by_heads, like.device())?;
    if !by_head {
        factors = factors.transpose(1, 2)?.contiguous()?;
    }
    factors.reshape(like.shape())?.to_dtype(like.dtype())
}

/// Rows `[..., width]` with a 1 behind them, which a bias is multiplied by and which sums up what reads them, then zeros up to a multiple of 8.
pub(crate) fn with_ones(x: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::has_kernels(x) {
        return x.contiguous()?.apply_op1(WithOnes);
    }
    with_ones_composed(x)
}

pub(crate) fn with_ones_composed(x: &Tensor) -> Result<Tensor> {
    let one = x.narrow(D::Minus1, 0, 1)?.ones_like()?;
    with_padding(&Tensor::cat(&[x, &one], D::Minus1)?, x.rank() - 1)
}

/// The first `width` values of rows, outside any graph.
pub(crate) fn without_ones(x: &Tensor, width: usize) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::has_kernels(x) {
        return x.apply_op1_no_bwd(&WithoutOnes { width });
    }
    x.narrow(D::Minus1, 0, width)?.contiguous()
}

/// A weight `[outputs, inputs]` with its bias `[outputs]` as one more column, then zeros up to a multiple of 8. What `changes_nothing` is
/// another bias, whose gradient is there and zero.
pub(crate) fn with_column(
    weight: &Tensor,
    bias: &Tensor,
    changes_nothing: Option<&Tensor>,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::has_kernels(weight) {
        let op = WithColumn {
            has_third: changes_nothing.is_some(),
        };
        let (bias, third) = (bias.contiguous()?, changes_nothing.unwrap_or(bias));
        return weight
            .contiguous()?
            .apply_op3(&bias, &third.contiguous()?, op);
    }
    let columns = with_padding(&Tensor::cat(&[weight, &bias.unsqueeze(1)?], 1)?, 1)?;
    let Some(third) = changes_nothing else {
        return Ok(columns);
    };
    // candle prunes a product with 0.
    let sum = third.sum_all()?;
    columns.broadcast_add(&sum.broadcast_sub(&sum)?)
}

/// Zeros up to a multiple of 8 in a dimension, as matrix units like it.
pub(crate) fn with_padding(x: &Tensor, dim: usize) -> Result<Tensor> {
    let size = x.dim(dim)?;
    x.pad_with_zeros(dim, 0, size.next_multiple_of(8) - size)
}

#[cfg(feature = "cuda")]
const fn padded_width(width: usize) -> usize {
    (width + 1).next_multiple_of(8)
}

impl Rows {
    /// The kernel of that name for rows of this length: some keep a row in registers.
    #[cfg(any(test, feature = "cuda"))]
    pub(crate) fn kernel(&self, name: &str) -> String {
        match self.g.keys {
            keys if keys % 16 != 0 => name.to_string(),
            0..=256 => format!("{name}_256"),
            257..=1024 => format!("{name}_1024"),
            _ => name.to_string(),
        }
    }

    #[cfg(feature = "cuda")]
    fn numbers(&self) -> [cuda::Number; 7] {
        use cuda::Number::{Real, Short, Whole};
        let Self { g, mask, by_head } = *self;
        let (queries, heads) = if by_head {
            (g.queries * g.heads, 1)
        } else {
            (g.queries, g.heads)
        };
        let (key, threshold, factor) = mask.map_or((0, 0, 1.0), |mask| mask.for_gpu());
        [
            Whole(g.keys as u64),
            Real(g.scale),
            Whole(queries as u64),
            Whole(heads as u64),
            Whole(key),
            Short(threshold),
            Real(factor),
        ]
    }
}

#[cfg(feature = "cuda")]
struct SoftmaxDropout {
    rows: Rows,
    dtype: DType,
}

#[cfg(feature = "cuda")]
impl CustomOp1 for SoftmaxDropout {
    fn name(&self) -> &'static str {
        "softmax-dropout"
    }

    fn cpu_fwd(&self, _x: &CpuStorage, _layout: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("{}: expected logits on a GPU", self.name())
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let kernel = self.rows.kernel("softmax_dropout");
        let numbers = self.rows.numbers();
        cuda::map_rows_to(self.dtype, &kernel, [(x, layout)], &numbers)
    }
}

/// `(logits, dy) -> dlogits`
#[cfg(feature = "cuda")]
struct SoftmaxDropoutBackward(Rows);

#[cfg(feature = "cuda")]
impl CustomOp2 for SoftmaxDropoutBackward {
    fn name(&self) -> &'static str {
        "softmax-dropout-backward"
    }

    fn cpu_fwd(
        &self,
        _x: &CpuStorage,
        _layout: &Layout,
        _grad: &CpuStorage,
        _grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        bail!("{}: expected logits on a GPU", self.name())
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        layout: &Layout,
        grad: &CudaStorage,
        grad_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let inputs = [(x, layout), (grad, grad_layout)];
        let kernel = self.0.kernel("softmax_dropout_backward");
        cuda::map_rows_to(grad.dtype(), &kernel, inputs, &self.0.numbers())
    }
}

#[cfg(feature = "cuda")]
struct WithOnes;

#[cfg(feature = "cuda")]
impl CustomOp1 for WithOnes {
    fn name(&self) -> &'static str {
        "with-ones"
    }

    fn cpu_fwd(&self, _x: &CpuStorage, _layout: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("{}: expected rows on a GPU", self.name())
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let width = cuda::width(layout.shape());
        widths("with_ones", (x, layout), [width, padded_width(width)])
    }

    fn bwd(&self, x: &Tensor, _output: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let width = x.dim(D::Minus1)?;
        let back = WithoutOnes { width };
        grad.contiguous()?.apply_op1_no_bwd(&back).map(Some)
    }
}

#[cfg(feature = "cuda")]
struct WithoutOnes {
    width: usize,
}

#[cfg(feature = "cuda")]
impl CustomOp1 for WithoutOnes {
    fn name(&self) -> &'static str {
        "without-ones"
    }

    fn cpu_fwd(&self, _x: &CpuStorage, _layout: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("{}: expected rows on a GPU", self.name())
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let padded = cuda::width(layout.shape());
        widths("without_ones", (x, layout), [self.width, padded])
    }
}

/// Rows of the narrower of two widths made from those of the wider, or the other way round, as the kernel says.
#[cfg(feature = "cuda")]
fn widths(
    kernel: &str,
    (x, layout): (&CudaStorage, &Layout),
    [narrow, wide]: [usize; 2],
) -> Result<(CudaStorage, Shape)> {
    let (width, leading) = (
        cuda::width(layout.shape()),
        &layout.dims()[..layout.dims().len() - 1],
    );
    let other = if width == narrow { wide } else { narrow };
    let shape = Shape::from([leading, &[other]].concat());
    let numbers = [narrow, wide].map(|number| cuda::Number::Whole(number as u64));
    let rows = cuda::map_to(kernel, [(x, layout)], &shape, &numbers)?;
    Ok((rows, shape))
}

#[cfg(feature = "cuda")]
struct WithColumn {
    /// Whether the third input is one that changes nothing.
    has_third: bool,
}

#[cfg(feature = "cuda")]
impl CustomOp3 for WithColumn {
    fn name(&self) -> &'static str {
        "with-column"
    }

    fn cpu_fwd(
        &self,
        _weight: &CpuStorage,
        _weight_layout: &Layout,
        _bias: &CpuStorage,
        _bias_layout: &Layout,
        _third: &CpuStorage,
        _third_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        bail!("{}: expected weights on a GPU", self.name())
    }

    fn cuda_fwd(
        &self,
        weight: &CudaStorage,
        weight_layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
        _third: &CudaStorage,
        _third_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (outputs, inputs) = weight_layout.shape().dims2()?;
        let shape = Shape::from((outputs, padded_width(inputs)));
        let numbers = [inputs, padded_width(inputs)].map(|n| cuda::Number::Whole(n as u64));
        let operands = [(weight, weight_layout), (bias, bias_layout)];
        let columns = cuda::map_to("with_column", operands, &shape, &numbers)?;
        Ok((columns, shape))
    }

    fn bwd(
        &self,
        weight: &Tensor,
        _bias: &Tensor,
        third: &Tensor,
        _output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (width, grad) = (weight.dim(1)?, grad.contiguous()?);
        let of_weight = grad.apply_op1_no_bwd(&WithoutOnes { width })?;
        let of_bias = grad.narrow(1, width, 1)?.contiguous()?.squeeze(1)?;
        let of_third = self.has_third.then(|| third.zeros_like()).transpose()?;
        Ok((Some(of_weight), Some(of_bias), of_third))
    }
}
