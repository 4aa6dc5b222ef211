//! Products with left operands that are not packed, against f64 and against the portable kernel.

use proptest::prelude::*;

use super::*;
use crate::RngKey;
use crate::matmul::transposed::Transposed;

/// A matrix of bf16 values, row by row, with `gap` values between rows.
#[derive(Clone, Debug)]
struct Stored {
    values: Vec<bf16>,
    rows: usize,
    columns: usize,
    gap: usize,
}

impl Stored {
    fn new(rows: usize, columns: usize, gap: usize, seed: u64) -> Self {
        let key = RngKey::new(seed);
        let value = |i| bf16::from_f32((key.bits(i) >> 40) as f32 / 8_388_608.0 - 1.0);
        let values = (0..(rows * (columns + gap)) as u64).map(value).collect();
        Self {
            values,
            rows,
            columns,
            gap,
        }
    }

    fn view(&self) -> RowMajor<'_> {
        RowMajor {
            row_stride: self.columns + self.gap,
            ..RowMajor::new(&self.values, self.rows, self.columns)
        }
    }

    fn at(&self, row: usize, column: usize) -> f64 {
        self.values[row * (self.columns + self.gap) + column].to_f64()
    }
}

/// A product in both types.
fn product(
    kernel: Bf16Kernel,
    lhs: Lhs,
    rhs: &PackedMatrix,
    scale: f32,
    sum: Sum,
    bias: Option<&[f32]>,
) -> (Vec<f32>, Vec<bf16>) {
    let row_stride = rhs.columns() + 3;
    let mut wide = vec![7f32; lhs.shape().0 * row_stride];
    let mut narrow = vec![bf16::from_f32(7.0); wide.len()];
    let target = Target {
        values: &mut wide,
        row_stride,
    };
    multiply(kernel, Product::F32(target, sum), lhs, rhs, scale, bias);
    let target = Product::Bf16 {
        values: &mut narrow,
        row_stride,
    };
    multiply(kernel, target, lhs, rhs, scale, bias);
    (wide, narrow)
}

/// Returns whether a kernel adds pair after pair, as AVX512-BF16 does; AMX adds up 16 pairs first.
fn adds_in_order(kernel: Bf16Kernel) -> bool {
    kernel.to_string() != "AMX"
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn products_match_f64_and_the_portable_kernel(
        rows in prop_oneof![1_usize..70, 140_usize..160],
        inner in prop_oneof![0_usize..70, 250_usize..300, 570_usize..600],
        columns in 1_usize..70,
        gap in 0_usize..3,
        (is_transposed, add, with_bias) in any::<(bool, bool, bool)>(),
        scale in -2f32..2.0,
        seed: u64,
    ) {
        let (lhs, rhs) = if is_transposed {
            (Stored::new(inner, rows, gap, seed), Stored::new(inner, columns, gap, seed ^ 1))
        } else {
            (Stored::new(rows, inner, gap, seed), Stored::new(inner, columns, gap, seed ^ 1))
        };
        let packed = PackedMatrix::new(rhs.view());
        let bias: Vec<f32> = (0..columns).map(|column| column as f32 / 8.0).collect();
        let bias = with_bias.then_some(&bias[..]);
        let sum = if add { Sum::Add } else { Sum::Replace };
        let run = |kernel| {
            let transposed = Transposed::of(kernel, lhs.view());
            let lhs = if is_transposed { transposed.lhs() } else { Lhs::Rows(lhs.view()) };
            product(kernel, lhs, &packed, scale, sum, bias)
        };
        let expected = run(Bf16Kernel::PORTABLE);
        for kernel in Bf16Kernel::all() {
            let found = run(kernel);
            if adds_in_order(kernel) && (is_transposed || inner % 2 == 0) {
                prop_assert_eq!(bits(&found.0), bits(&expected.0), "{}", kernel);
                prop_assert_eq!(&found.1, &expected.1, "{}", kernel);
            }
            for (at, (wide, narrow)) in found.0.iter().zip(&found.1).enumerate() {
                let (row, column) = (at / (columns + 3), at % (columns + 3));
                if column >= columns {
                    prop_assert_eq!((*wide, narrow.to_f32()), (7.0, 7.0), "a gap was written to");
                    continue;
                }
                let left = |k| if is_transposed { lhs.at(k, row) } else { lhs.at(row, k) };
                let terms = (0..inner).map(|k| left(k) * rhs.at(k, column));
                let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
                let value = f64::from(scale) * sum + bias.map_or(0.0, |bias| f64::from(bias[column]));
                let bound = 1e-6 * (f64::from(scale.abs()) * size + value.abs() + 7.0);
                let expected = value + if add { 7.0 } else { 0.0 };
                prop_assert!((f64::from(*wide) - expected).abs() <= bound, "{wide} for {expected}");
                let narrow = narrow.to_f64();
                prop_assert!((narrow - value).abs() <= bound + value.abs() / 256.0, "{narrow} for {value}");
            }
        }
    }

    #[test]
    fn windows_are_read_where_they_are(
        (height, width) in prop_oneof![(1_usize..9, 1_usize..18), Just((8, 8)), Just((5, 16))],
        side in prop_oneof![Just(1), Just(3), Just(5)],
        channels in prop_oneof![1_usize..9, Just(64), Just(120)],
        columns in 1_usize..40,
        seed: u64,
    ) {
        let map = Stored::new(height + side - 1, (width + side - 1) * channels, 0, seed);
        let windows = Windows {
            values: &map.values,
            height,
            width,
            side,
            point_stride: channels,
            line_stride: map.columns,
        };
        let inner = side * side * channels;
        let rows = windows.copied();
        let expected = (0..height * width).flat_map(|point| {
            let (y, x) = (point / width, point % width);
            let map = &map;
            (0..inner).map(move |at| {
                let line = y + at / (side * channels);
                map.values[line * map.columns + x * channels + at % (side * channels)]
            })
        });
        prop_assert!(rows.iter().copied().eq(expected));
        let matrix = Stored::new(inner, columns, 0, seed ^ 1);
        let rhs = PackedMatrix::in_parts(Operand::from(matrix.view()), side);
        let rows = Lhs::Rows(RowMajor::new(&rows, height * width, inner));
        for kernel in Bf16Kernel::all() {
            if Lhs::Windows(windows).has_whole_pairs() {
                let run = |lhs| product(kernel, lhs, &rhs, 1.0, Sum::Replace, None);
                let (found, expected) = (run(Lhs::Windows(windows)), run(rows));
                prop_assert_eq!(bits(&found.0), bits(&expected.0), "{}", kernel);
                prop_assert_eq!(found.1, expected.1, "{}", kernel);
            }
        }
    }
}

/// A row of zeros at the end makes pairs whole and changes nothing.
#[test]
fn an_odd_inner_dimension_is_padded() {
    for inner in [1, 257, 2057] {
        let (lhs, rhs) = (Stored::new(9, inner, 0, 1), Stored::new(inner, 40, 0, 2));
        let padded: Vec<bf16> = lhs
            .values
            .chunks(inner)
            .flat_map(|row| row.iter().copied().chain([bf16::ZERO]))
            .collect();
        let packed = PackedMatrix::new(Operand::from(rhs.view()));
        let even = packed.clone().with_even_rows();
        let kernel = Bf16Kernel::fastest().unwrap_or(Bf16Kernel::PORTABLE);
        let run = |lhs, rhs| product(kernel, Lhs::Rows(lhs), rhs, 1.0, Sum::Replace, None).0;
        let found = run(RowMajor::new(&padded, 9, inner + 1), &even);
        for (found, expected) in found.into_iter().zip(run(lhs.view(), &packed)) {
            assert!((found - expected).abs() <= 1e-5 * expected.abs().max(1.0));
        }
    }
}

/// NaN and infinities reach exactly the values that depend on them, also next to the zeros that
/// pairs are padded with.
#[test]
fn nan_and_infinity_reach_what_depends_on_them() {
    for special in [bf16::NAN, bf16::INFINITY, bf16::NEG_INFINITY] {
        for (rows, inner, columns) in [(13, 31, 33), (40, 288, 5), (12, 290, 32)] {
            let mut lhs = Stored::new(rows, inner, 1, 1);
            let rhs = Stored::new(inner, columns, 0, 2);
            let (row, column) = (rows - 1, inner - 1);
            lhs.values[row * (inner + 1) + column] = special;
            let packed = PackedMatrix::new(Operand::from(rhs.view()));
            for kernel in Bf16Kernel::all() {
                let lhs = Lhs::Rows(lhs.view());
                let (wide, narrow) = product(kernel, lhs, &packed, 1.0, Sum::Replace, None);
                for (at, (wide, narrow)) in wide.iter().zip(&narrow).enumerate() {
                    let depends = at / (columns + 3) == row && at % (columns + 3) < columns;
                    assert_eq!(wide.is_finite(), !depends, "{kernel}: {wide} at {at}");
                    assert_eq!(narrow.is_finite(), !depends, "{kernel}: {narrow} at {at}");
                    assert_eq!(wide.is_nan(), narrow.is_nan());
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "inner dimensions of a product")]
fn shapes_that_do_not_fit_are_rejected() {
    let matrix = Stored::new(3, 4, 0, 1);
    let packed = PackedMatrix::new(Operand::from(matrix.view()));
    let lhs = Lhs::Rows(matrix.view());
    product(Bf16Kernel::PORTABLE, lhs, &packed, 1.0, Sum::Replace, None);
}

#[test]
#[should_panic(expected = "a matrix reaches beyond its slice")]
fn products_that_do_not_fit_their_slice_are_rejected() {
    let (lhs, rhs) = (Stored::new(5, 8, 0, 1), Stored::new(8, 4, 0, 2));
    let packed = PackedMatrix::new(Operand::from(rhs.view()));
    let values = &mut [bf16::ZERO; 19];
    let target = Product::Bf16 {
        values,
        row_stride: 4,
    };
    multiply(
        Bf16Kernel::PORTABLE,
        target,
        Lhs::Rows(lhs.view()),
        &packed,
        1.0,
        None,
    );
}
