//! Finds NaN and infinite values in tensors.

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

use crate::cpu::{TASK, with_values};

/// The exponent bits of an `f32`: all are set in infinities and NaN, and in no finite number.
const EXPONENT: u32 = 0x7f80_0000;

/// Returns the first value of a tensor that is NaN or infinite as an `f32`, with its position in
/// row-major order; `None` if all are finite. Uses all cores.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use perceiver_ops::first_not_finite;
///
/// let tensor = Tensor::new(&[[1.0_f32, 2.0], [f32::INFINITY, 3.0]], &Device::Cpu)?;
/// assert_eq!(first_not_finite(&tensor)?, Some((2, f32::INFINITY)));
/// assert_eq!(first_not_finite(&tensor.narrow(0, 0, 1)?)?, None);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// When the values cannot be copied from the device.
pub fn first_not_finite(tensor: &Tensor) -> Result<Option<(usize, f32)>> {
    let tensor = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    with_values("first_not_finite", [&tensor.contiguous()?], |[values]| {
        let tasks = values.par_chunks(TASK).enumerate();
        tasks.find_map_first(|(task, values)| {
            if all_finite(values) {
                return None;
            }
            let at = values.iter().position(|value| !value.is_finite())?;
            Some((task * TASK + at, values[at]))
        })
    })
}

/// Returns whether all values are finite. Has no branch per value, so that the compiler vectorizes
/// it.
fn all_finite(values: &[f32]) -> bool {
    let any = values
        .iter()
        .fold(false, |any, v| any | (v.to_bits() & EXPONENT == EXPONENT));
    !any
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_non_finite_value_is_found_at_any_index() {
        for count in [1, 7, TASK - 1, TASK, 3 * TASK + 5] {
            for (at, value) in [
                (0, f32::NAN),
                (count / 2, f32::INFINITY),
                (count - 1, -f32::NAN),
            ] {
                let mut values = vec![f32::MAX; count];
                let tensor = Tensor::from_slice(&values, count, &Device::Cpu).unwrap();
                assert_eq!(first_not_finite(&tensor).unwrap(), None);
                values[at] = value;
                values[count - 1] = f32::NAN; // a later one too
                let tensor = Tensor::from_vec(values, count, &Device::Cpu).unwrap();
                let first = first_not_finite(&tensor).unwrap().unwrap();
                assert_eq!(first.0, at.min(count - 1));
            }
        }
    }

    #[test]
    fn all_float_types_and_layouts_are_checked() {
        let values = [[1.0, f64::MAX], [-2.0, 0.0]]; // finite, but no f32
        let tensor = Tensor::new(&values, &Device::Cpu).unwrap();
        assert_eq!(first_not_finite(&tensor).unwrap(), Some((1, f32::INFINITY)));
        let turned = tensor.t().unwrap();
        assert_eq!(first_not_finite(&turned).unwrap(), Some((2, f32::INFINITY)));
        let half = Tensor::new(&[half::f16::NAN], &Device::Cpu).unwrap();
        assert!(first_not_finite(&half).unwrap().is_some());
        let scalar = Tensor::new(f32::NAN, &Device::Cpu).unwrap();
        assert!(first_not_finite(&scalar).unwrap().is_some());
    }
}
