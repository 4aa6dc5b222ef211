//! Every kernel that this machine has, against products in f64 and against the portable kernel.

use half::bf16;
use proptest::prelude::*;
use rayon::prelude::*;

use super::kernel::Bf16Kernel;
use super::operand::{Operand, Values};
use super::packed_matrix::PackedMatrix;
use super::product::{Epilogue, multiply_packed};
use crate::RngKey;
use crate::cpu::gemm::{Matrix, Sum, Target};

/// A matrix in memory: its strides, and values of which some are special.
#[derive(Clone, Debug)]
struct Stored {
    values: Vec<f32>,
    rows: usize,
    columns: usize,
    strides: (usize, usize),
    is_narrow: bool,
}

/// In which order a matrix is in memory.
#[derive(Clone, Copy, Debug)]
enum Order {
    Rows,
    Columns,
    /// Neither rows nor columns are adjacent values.
    Spread,
}

impl Stored {
    fn new(
        rows: usize,
        columns: usize,
        order: Order,
        gap: usize,
        is_narrow: bool,
        seed: u64,
    ) -> Self {
        let strides = match order {
            Order::Rows => (columns + gap, 1),
            Order::Columns => (1, rows + gap),
            Order::Spread => (2 * (columns + gap), 2),
        };
        let len = (rows.max(1) - 1) * strides.0 + (columns.max(1) - 1) * strides.1 + 1;
        let key = RngKey::new(seed);
        let value = |i| (key.bits(i) >> 40) as f32 / 8_388_608.0 - 1.0;
        let mut values: Vec<f32> = (0..len as u64).map(value).collect();
        if is_narrow {
            for value in &mut values {
                *value = bf16::from_f32(*value).to_f32();
            }
        }
        Self {
            values,
            rows,
            columns,
            strides,
            is_narrow,
        }
    }

    fn narrow(&self) -> Vec<bf16> {
        self.values.iter().map(|x| bf16::from_f32(*x)).collect()
    }

    fn with<R>(&self, call: impl FnOnce(Operand) -> R) -> R {
        let narrow = self.narrow();
        let wide = Matrix {
            values: &self.values,
            rows: self.rows,
            columns: self.columns,
            row_stride: self.strides.0,
            column_stride: self.strides.1,
        };
        let mut operand = Operand::from(wide);
        if self.is_narrow {
            operand.values = Values::Bf16(&narrow);
        }
        call(operand)
    }

    /// Returns the values rounded to bf16, row by row.
    fn dense(&self) -> Vec<f64> {
        let value = |row: usize, column: usize| {
            let value = self.values[row * self.strides.0 + column * self.strides.1];
            bf16::from_f32(value).to_f64()
        };
        let rows = 0..self.rows;
        rows.flat_map(|row| (0..self.columns).map(move |column| value(row, column)))
            .collect()
    }
}

fn order() -> impl Strategy<Value = Order> {
    prop_oneof![Just(Order::Rows), Just(Order::Columns), Just(Order::Spread)]
}

fn sizes() -> impl Strategy<Value = (usize, usize, usize)> {
    // Around the edges of tiles, panels and blocks.
    let size = || prop_oneof![1_usize..70, 140_usize..160];
    let depth = prop_oneof![0_usize..70, 250_usize..300, 570_usize..600];
    prop_oneof![9 => (size(), depth, size()), 1 => (185_usize..200, 1_usize..5, 1_usize..40)]
}

/// Returns the product with rows `gap` values apart more than they are long; gaps hold 7.
fn product(
    kernel: Bf16Kernel,
    lhs: &Stored,
    rhs: &Stored,
    gap: usize,
    epilogue: Epilogue,
) -> Vec<f32> {
    let packed = rhs.with(|rhs| PackedMatrix::new(rhs));
    product_with(kernel, lhs, &packed, gap, epilogue)
}

fn product_with(
    kernel: Bf16Kernel,
    lhs: &Stored,
    packed: &PackedMatrix,
    gap: usize,
    epilogue: Epilogue,
) -> Vec<f32> {
    let row_stride = packed.columns() + gap;
    let mut values = vec![7f32; lhs.rows * row_stride];
    let target = Target {
        values: &mut values,
        row_stride,
    };
    lhs.with(|lhs| multiply_packed(kernel, target, lhs, packed, epilogue));
    values
}

const PLAIN: Epilogue<'static> = Epilogue {
    scale: 1.0,
    sum: Sum::Replace,
    bias: None,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn products_match_f64(
        (rows, depth, columns) in sizes(),
        orders in (order(), order()),
        narrow in (any::<bool>(), any::<bool>()),
        gap in 0_usize..5,
        (add, with_bias, scale) in (any::<bool>(), any::<bool>(), -2f32..2.0),
        seed: u64,
    ) {
        let lhs = Stored::new(rows, depth, orders.0, gap, narrow.0, seed);
        let rhs = Stored::new(depth, columns, orders.1, gap, narrow.1, seed.wrapping_add(1));
        let bias: Vec<f32> = (0..columns).map(|column| column as f32 / 8.0).collect();
        let epilogue = Epilogue {
            scale,
            sum: if add { Sum::Add } else { Sum::Replace },
            bias: with_bias.then_some(&bias),
        };
        let all: Vec<Vec<f32>> =
            Bf16Kernel::all().into_iter().map(|kernel| product(kernel, &lhs, &rhs, gap, epilogue)).collect();
        let bias_of = |column: usize| if with_bias { f64::from(bias[column]) } else { 0.0 };
        let before = if add { 7.0 } else { 0.0 };
        let [left, right] = [&lhs, &rhs].map(Stored::dense);
        for at in 0..rows * (columns + gap) {
            let (row, column) = (at / (columns + gap), at % (columns + gap));
            let found = all.iter().map(|values| values[at]);
            if column >= columns {
                prop_assert!(found.map(f32::to_bits).all(|bits| bits == 7f32.to_bits()), "a gap was written to");
                continue;
            }
            let terms = (0..depth).map(|k| left[row * depth + k] * right[k * columns + column]);
            let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
            let expected = f64::from(scale) * sum + before + bias_of(column);
            let bound = 1e-6 * (f64::from(scale.abs()) * size + expected.abs() + 7.0);
            for value in found.map(f64::from) {
                prop_assert!((value - expected).abs() <= bound, "{value} for {expected} at {row}, {column}");
            }
        }
    }

    /// NaN and infinities reach exactly the values that depend on them, also next to the edges
    /// where packing pads with zeros.
    #[test]
    fn nan_and_infinity_reach_what_depends_on_them(
        (rows, depth, columns) in sizes().prop_filter("an inner dimension", |(_, depth, _)| *depth > 0),
        orders in (order(), order()),
        special in prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY), Just(f32::MAX)],
        (is_left, at) in (any::<bool>(), any::<(usize, usize)>()),
        seed: u64,
    ) {
        let mut lhs = Stored::new(rows, depth, orders.0, 1, false, seed);
        let mut rhs = Stored::new(depth, columns, orders.1, 1, false, seed.wrapping_add(1));
        let side = if is_left { &mut lhs } else { &mut rhs };
        let (row, column) = (at.0 % side.rows, at.1 % side.columns);
        side.values[row * side.strides.0 + column * side.strides.1] = special;
        let [left, right] = [&lhs, &rhs].map(Stored::dense);
        for kernel in Bf16Kernel::all() {
            let values = product(kernel, &lhs, &rhs, 0, PLAIN);
            for (at, found) in values.into_iter().map(f64::from).enumerate() {
                let (i, j) = (at / columns, at % columns);
                let terms = (0..depth).map(|k| left[i * depth + k] * right[k * columns + j]);
                let sum: f64 = terms.sum();
                let is_same = match sum {
                    sum if sum.is_nan() => found.is_nan(),
                    sum if sum.is_infinite() => found.is_infinite() && found.signum() == sum.signum(),
                    sum => (found - sum).abs() <= 1e-3,
                };
                prop_assert!(is_same, "{kernel}: {found} for {sum} at {i}, {j}");
            }
        }
    }
}

/// The portable kernel adds in the order of `vdpbf16ps`, so both give the same bits.
#[test]
fn the_portable_kernel_has_the_bits_of_avx512() {
    let avx512 = Bf16Kernel::all()
        .into_iter()
        .find(|kernel| kernel.to_string() == "AVX512-BF16");
    let Some(avx512) = avx512 else {
        return; // a CPU without it
    };
    for (rows, depth, columns) in [(50, 257, 70), (12, 2057, 33), (1, 3, 1)] {
        let lhs = Stored::new(rows, depth, Order::Rows, 0, false, 1);
        let rhs = Stored::new(depth, columns, Order::Columns, 0, false, 2);
        let [expected, found] =
            [Bf16Kernel::PORTABLE, avx512].map(|kernel| product(kernel, &lhs, &rhs, 0, PLAIN));
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(
            bits(&found),
            bits(&expected),
            "{rows} x {depth} x {columns}"
        );
    }
}

/// Each thread has packed rows and tile registers of its own.
#[test]
fn products_on_many_threads_have_the_bits_of_one() {
    let rhs = Stored::new(300, 90, Order::Rows, 0, false, 3);
    let lhs: Vec<Stored> = (0..40)
        .map(|index| {
            Stored::new(
                5 + 7 * (index % 9),
                300,
                Order::Rows,
                0,
                false,
                index as u64,
            )
        })
        .collect();
    for kernel in Bf16Kernel::all() {
        let run = |lhs: &Stored| product(kernel, lhs, &rhs, 0, PLAIN);
        let expected: Vec<Vec<f32>> = lhs.iter().map(run).collect();
        let found: Vec<Vec<f32>> = lhs.par_iter().map(run).collect();
        assert!(found == expected, "{kernel}");
    }
}

#[test]
fn packing_in_parallel_gives_the_same_matrix() {
    for (rows, columns, order) in [
        (257, 2048, Order::Rows),
        (2057, 256, Order::Columns),
        (600, 129, Order::Spread),
        (3, 1, Order::Rows),
        (0, 300, Order::Rows),
    ] {
        let rhs = Stored::new(rows, columns, order, 0, false, 8);
        let lhs = Stored::new(20, rows, Order::Rows, 0, false, 9);
        let packed = rhs.with(|rhs| PackedMatrix::in_parallel(rhs));
        for kernel in Bf16Kernel::all() {
            let values = product_with(kernel, &lhs, &packed, 0, PLAIN);
            assert!(values == product(kernel, &lhs, &rhs, 0, PLAIN), "{kernel}");
        }
    }
}

#[test]
fn a_packed_matrix_can_be_packed_again() {
    let mut packed = PackedMatrix::default();
    for (rows, columns) in [(600, 70), (33, 5), (64, 40)] {
        let rhs = Stored::new(rows, columns, Order::Rows, 0, false, 4);
        let lhs = Stored::new(9, rows, Order::Rows, 0, false, 5);
        rhs.with(|rhs| packed.pack(rhs));
        for kernel in Bf16Kernel::all() {
            let values = product_with(kernel, &lhs, &packed, 0, PLAIN);
            assert!(values == product(kernel, &lhs, &rhs, 0, PLAIN), "{kernel}");
        }
    }
}

#[test]
#[should_panic(expected = "inner dimensions of a product")]
fn shapes_that_do_not_fit_are_rejected() {
    let matrix = Stored::new(3, 4, Order::Rows, 0, false, 6);
    product(Bf16Kernel::PORTABLE, &matrix, &matrix, 0, PLAIN);
}
