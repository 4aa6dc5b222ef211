//! Constants of a graph: tensors as bytes.

use candle_core::{DType, Tensor};
use half::f16;

use crate::error::{ExportError, Result};
use crate::onnx::proto::{DataType, TensorProto};
use crate::options::OnnxPrecision;

impl OnnxPrecision {
    /// Returns the type of weights and activations.
    pub(crate) fn data_type(self) -> DataType {
        match self {
            Self::F32 => DataType::Float,
            Self::F16 => DataType::Float16,
        }
    }
}

/// Converts a length to the format's integers.
pub(crate) fn length(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX) // no array is longer
}

/// Creates a constant with the values of a floating-point tensor.
///
/// # Errors
/// When a value is too large for the precision, and when candle refuses an operation.
pub(crate) fn of_weight(
    name: &str,
    tensor: &Tensor,
    precision: OnnxPrecision,
) -> Result<TensorProto> {
    let dims = tensor.dims().iter().map(|&dim| length(dim)).collect();
    let values: Vec<f32> = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    let bytes = match precision {
        OnnxPrecision::F32 => values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect(),
        OnnxPrecision::F16 => {
            let of_value = |value: &f32| {
                let half = f16::from_f32(*value);
                if half.is_finite() {
                    return Ok(half.to_le_bytes());
                }
                let (name, value) = (name.to_string(), *value);
                Err(ExportError::OutOfRange { name, value })
            };
            let halves = values.iter().map(of_value).collect::<Result<Vec<_>>>()?;
            halves.into_iter().flatten().collect()
        }
    };
    Ok(new(name, precision.data_type(), dims, bytes))
}

/// Creates a constant of bytes in little-endian order.
pub(crate) fn new(name: &str, of: DataType, dims: Vec<i64>, bytes: Vec<u8>) -> TensorProto {
    TensorProto {
        dims,
        data_type: Some(of.into()),
        name: Some(name.to_string()),
        raw_data: Some(bytes.into()),
        ..TensorProto::default()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn numbers_that_f16_lacks_are_errors_by_name() {
        let tensor = Tensor::new(&[[1f32, 65504.0], [-70000.0, 0.0]], &Device::Cpu).unwrap();
        let full = of_weight("w", &tensor, OnnxPrecision::F32).unwrap();
        assert_eq!((full.dims, full.raw_data.unwrap().len()), (vec![2, 2], 16));
        let error = of_weight("w", &tensor, OnnxPrecision::F16).unwrap_err();
        assert!(
            error.to_string().starts_with("w: expected numbers of f16"),
            "{error}"
        );
        let rows = tensor.narrow(0, 0, 1).unwrap();
        let half = of_weight("w", &rows, OnnxPrecision::F16).unwrap();
        assert_eq!(half.raw_data.unwrap()[..], [0x00, 0x3c, 0xff, 0x7b]);
    }
}
