//! SIMD loops over `f32` values, compiled for several instruction sets and dispatched at run time.
//!
//! Products and sums are never contracted into fused multiply-adds, and sums use a fixed number of
//! lanes, so every machine computes the same bits here.

/// Number of lanes of a sum, as many as the widest vectors hold.
pub(crate) const LANES: usize = 16;

/// Compiles functions several times, for the widest vectors a machine can have and for those every
/// machine has; a call uses the best that this machine supports. Only inlined code takes part:
/// loops, and `#[inline(always)]` functions.
macro_rules! vectorised {
    ($($function:item)*) => {$(
        #[multiversion::multiversion(targets(
            "x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma",
            "x86_64+avx2+fma",
        ))]
        $function
    )*};
}
pub(crate) use vectorised;

vectorised! {
    /// Returns whether the loops that run on this machine were compiled for AVX-512, and for AVX2.
    fn compiled_for() -> [bool; 2] {
        [
            multiversion::target::target_cfg_f!(target_feature = "avx512f"),
            multiversion::target::target_cfg_f!(target_feature = "avx2"),
        ]
    }
}

/// Returns the name of the vector instructions that this machine uses, of those compiled in; for
/// display.
pub fn vector_instructions() -> &'static str {
    match compiled_for() {
        [true, _] => "AVX-512",
        [false, true] => "AVX2",
        [false, false] => "that every machine of this kind has",
    }
}

/// Folds `row` into `LANES` accumulators, then those into one, in a fixed order.
#[inline(always)]
fn fold(
    row: &[f32],
    start: f32,
    value_of: impl Fn(f32) -> f32,
    combine: impl Fn(f32, f32) -> f32,
) -> f32 {
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut lanes = [start; LANES];
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = combine(*lane, value_of(*value));
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane = combine(*lane, value_of(*value));
    }
    lanes.into_iter().fold(start, combine)
}

/// Returns the maximum of a row, ignoring NaN.
#[inline(always)]
pub(crate) fn max(row: &[f32]) -> f32 {
    fold(
        row,
        f32::NEG_INFINITY,
        |x| x,
        |a, b| if b > a { b } else { a },
    )
}

#[inline(always)]
pub(crate) fn sum(row: &[f32]) -> f32 {
    sum_of(row, |x| x)
}

/// Returns the sum of a function over the values.
#[inline(always)]
pub(crate) fn sum_of(row: &[f32], value_of: impl Fn(f32) -> f32) -> f32 {
    fold(row, 0.0, value_of, |a, b| a + b)
}

/// Multiplies every value of a row by a factor.
#[inline(always)]
pub(crate) fn scale(row: &mut [f32], factor: f32) {
    for value in row {
        *value *= factor;
    }
}

vectorised! {
    /// Adds a row to sums of the same length.
    pub(crate) fn add_to(sums: &mut [f32], row: &[f32]) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += value;
        }
    }

    /// Adds a row to each of several rows.
    pub(crate) fn add_to_rows(rows: &mut [f32], row: &[f32]) {
        for values in rows.chunks_mut(row.len().max(1)) {
            for (value, add) in values.iter_mut().zip(row) {
                *value += add;
            }
        }
    }

    /// Adds every row of `rows` to sums of a row's length.
    pub(crate) fn add_rows_to(sums: &mut [f32], rows: &[f32]) {
        for row in rows.chunks(sums.len().max(1)) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += value;
            }
        }
    }
}

/// Returns the dot product of two rows of the same length.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((chunks_a, rest_a), (chunks_b, rest_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0f32; LANES];
    for (a, b) in chunks_a.iter().zip(chunks_b) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += a * b;
        }
    }
    for (lane, (a, b)) in lanes.iter_mut().zip(rest_a.iter().zip(rest_b)) {
        *lane += a * b;
    }
    lanes.into_iter().sum()
}

/// Computes `e^x` for `x` up to 80, with relative error below 3e-7; 0 below -87, where `f32` has no
/// normal numbers. NaN stays NaN.
///
/// `e^x = 2^n e^r` with `n` the integer nearest to `x / ln 2`; the polynomial for `e^r` is that of
/// Cephes.
#[inline(always)]
#[allow(clippy::excessive_precision)] // ln 2 in two parts, the first exact in few bits.
pub(crate) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 leaves the nearest integer in the lowest bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_375;
    const LN_2_LOW: f32 = -2.121_944_40e-4;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut p = 1.987_569_15e-4;
    for coefficient in [
        1.398_199_950_7e-3,
        8.333_451_907_3e-3,
        4.166_579_589_4e-2,
        1.666_666_545_9e-1,
        5.000_000_120_1e-1,
    ] {
        p = p * r + coefficient;
    }
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23); // 2^n
    let y = ((p * r) * r + r + 1.0) * power;
    if x < -87.0 { 0.0 } else { y }
}

/// Returns `x`, or 0 if `|x|` is below 2^-96: a probability or gradient that changes no sum in which
/// there is anything else.
///
/// Products with such values are subnormal numbers, for which Intel CPUs leave their fast path:
/// attention that has become sharp took 1.4 times as long to train.
#[inline(always)]
pub(crate) fn without_traces(x: f32) -> f32 {
    const SMALLEST: f32 = f32::from_bits((127 - 96) << 23);
    if x.abs() < SMALLEST { 0.0 } else { x }
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // These values are exact.
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_3e_7_of_its_value() {
        for step in -870_000..=800_000 {
            let x = step as f32 * 1e-4;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 3e-7, "exp({x}) is {error:e} off");
        }
    }

    #[test]
    fn exp_at_the_limits() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!([exp(-1e30), exp(f32::NEG_INFINITY)], [0.0, 0.0]);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn traces_become_zero() {
        assert_eq!([2e-29, -2e-29].map(without_traces), [2e-29, -2e-29]);
        assert_eq!([1e-29, -1e-29, 1e-40].map(without_traces), [0.0; 3]);
        assert!(without_traces(f32::NAN).is_nan());
        assert_eq!(without_traces(f32::NEG_INFINITY), f32::NEG_INFINITY);
    }

    #[test]
    fn sums_and_maxima_include_every_value() {
        for len in [0, 1, 15, 16, 17, 100] {
            let row: Vec<f32> = (0..len).map(|i| (i * 7 % 31) as f32).collect();
            assert_eq!(sum(&row), row.iter().sum::<f32>());
            assert_eq!(dot(&row, &row), row.iter().map(|x| x * x).sum::<f32>());
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(max(&row), largest);
        }
    }
}
