//! Compares an exported file with the model: its results in tract on random inputs.

use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use perceiver_export::{ExportOptions, OnnxPrecision, run_in_tract};

use crate::commands::conversion::export::samples::Sample;
use crate::ui::terminal;

/// The batch sizes that are compared: one image, and several.
const BATCHES: [usize; 2] = [1, 3];

/// How much larger the rounding of another engine may be than that of the model, measured as its
/// difference from the results in 64 bits.
const ROUNDING_FACTOR: f32 = 4.0;

/// Runs the file at `path` in tract and compares its results with those of the model.
pub(crate) fn compare(
    path: &Path,
    checkpoint: &perceiver_train::Checkpoint,
    options: &ExportOptions,
) -> Result<()> {
    let allowed = tolerance(options);
    let mut most = 0f32;
    for batch in BATCHES {
        let sample = Sample::new(checkpoint, options, batch)?;
        let found = run_in_tract(path, &sample.input).context("--verify")?;
        if found.dims() != sample.expected.dims() {
            let (shown, expected) = (path.display(), sample.expected.dims());
            bail!(
                "--verify: {shown}: expected results {expected:?}, found {:?}",
                found.dims()
            );
        }
        let distance = distance(&found, &sample.expected)?;
        let mut tolerance = allowed;
        if distance > allowed {
            // Sharp attention amplifies rounding, in which engines differ.
            let exact = sample.exact(checkpoint, options)?;
            tolerance += ROUNDING_FACTOR * self::distance(&sample.expected, &exact)?;
        }
        // A NaN is no distance below the tolerance.
        if distance.is_nan() || distance > tolerance {
            let shown = path.display();
            bail!(
                "--verify: {shown}: expected the results of the model within {tolerance:e} of the largest, found a \
                 difference of {distance:.1e} in tract at batch size {batch}; keep the file for a report, and do not \
                 use it"
            );
        }
        most = most.max(distance);
    }
    terminal::print(format_args!(
        "verified in tract at batch sizes 1 and 3: differences up to {most:.1e} of the largest result; {allowed:e} and \
         four times the model's own rounding are allowed"
    ))?;
    Ok(())
}

/// Returns the largest difference that is allowed, as a share of the largest result. Bytes in the
/// preprocessing may round the other way.
fn tolerance(options: &ExportOptions) -> f32 {
    match (options.precision, &options.preprocessing) {
        (OnnxPrecision::F16, _) => 1e-2,
        (OnnxPrecision::F32, Some(_)) => 3e-3,
        (OnnxPrecision::F32, None) => 1e-4,
    }
}

/// Returns the largest difference as a share of the largest entry of `expected`; NaN if one is.
fn distance(found: &Tensor, expected: &Tensor) -> Result<f32> {
    let values = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f32>();
    let (found, expected) = (values(found)?, values(expected)?);
    let larger = |a: f32, b: f32| if a.is_nan() || a > b { a } else { b };
    let largest = expected.iter().map(|value| value.abs()).fold(0.0, larger);
    let pairs = found.iter().zip(&expected);
    let most = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, larger);
    Ok(most / largest.max(f32::MIN_POSITIVE))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn distances_are_shares_of_the_largest_entry_and_keep_nans() {
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        let expected = tensor(&[1.0, -4.0]);
        assert!((distance(&tensor(&[1.5, -4.0]), &expected).unwrap() - 0.125).abs() < 1e-6);
        assert!(
            distance(&tensor(&[f32::NAN, -4.0]), &expected)
                .unwrap()
                .is_nan()
        );
    }
}
