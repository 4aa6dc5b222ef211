//! Runs exported files in tract, an ONNX engine in Rust by another team.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use tract_onnx::prelude::*;

use crate::error::{ExportError, Result};

/// Runs the file at `path` in tract on `input`, f32 or u8 of the shape that the file takes, and
/// returns its result, f32 `[batch, classes]`.
///
/// # Errors
/// [`ExportError::Engine`] when tract cannot read or run the file, and when candle refuses an
/// operation.
pub fn run_in_tract(path: impl AsRef<Path>, input: &Tensor) -> Result<Tensor> {
    let path = path.as_ref();
    let failed = |error: TractError| ExportError::Engine {
        path: path.to_path_buf(),
        finding: format!("{error:#}"),
    };
    let dims = input.dims();
    let values = input.flatten_all()?;
    let converted = match input.dtype() {
        DType::U8 => tract_onnx::prelude::Tensor::from_shape(dims, &values.to_vec1::<u8>()?),
        _ => tract_onnx::prelude::Tensor::from_shape(dims, &values.to_vec1::<f32>()?),
    };
    let run = |input: tract_onnx::prelude::Tensor| -> TractResult<(Vec<usize>, Vec<f32>)> {
        let fact = InferenceFact::dt_shape(input.datum_type(), dims);
        let model = tract_onnx::onnx().model_for_path(path)?;
        let model = model.with_input_fact(0, fact)?.into_optimized()?;
        let results = model.into_runnable()?.run(tvec!(input.into()))?;
        let result = results[0].to_plain_array_view::<f32>()?;
        Ok((result.shape().to_vec(), result.iter().copied().collect()))
    };
    let (shape, values) = converted.and_then(run).map_err(failed)?;
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}
