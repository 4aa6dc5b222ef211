//! cuBLAS and cuRAND, by NVIDIA's manuals, to the extent that candle and this project call them.
//! Of cuRAND, generators exist but generate nothing.

#![allow(non_snake_case, clippy::missing_safety_doc)]

use std::ffi::{c_int, c_longlong, c_void};

use crate::calls::{ONLY, SUCCESS, Status, answers, nothing_to_do};
use crate::device::with;
use crate::memory::Allocations;
use crate::ptx::Type;

const NOT_SUPPORTED: Status = 15;

nothing_to_do! {
    cublasDestroy_v2(*mut c_void);
    cublasSetStream_v2(*mut c_void, *mut c_void);
    cublasSetMathMode(*mut c_void, c_int);
    curandDestroyGenerator(*mut c_void);
    curandSetStream(*mut c_void, *mut c_void);
    curandSetPseudoRandomGeneratorSeed(*mut c_void, u64);
}

answers! {
    cublasCreate_v2(-> *mut c_void) = ONLY;
    curandCreateGenerator(-> *mut c_void, c_int) = ONLY;
}

/// Returns the value type with this cuBLAS number.
fn type_of(number: c_int) -> Option<Type> {
    Some(match number {
        0 => Type::F32,
        2 => Type::F16,
        14 => Type::Bf16,
        _ => return None,
    })
}

/// A batch of column-major matrices.
#[derive(Clone, Copy)]
struct Matrix {
    start: u64,
    kind: Type,
    rows: usize,
    columns: usize,
    /// Values between the starts of two columns.
    leading: usize,
    /// Values between the starts of two matrices.
    stride: usize,
}

impl Matrix {
    /// Returns a matrix of the batch, after checking that all its values are in memory.
    fn nth(mut self, index: usize, memory: &Allocations) -> Result<Self, String> {
        self.start += (index * self.stride * self.kind.size()) as u64;
        let values = (self.columns.max(1) - 1) * self.leading + self.rows;
        let Self {
            rows,
            columns,
            leading,
            start,
            ..
        } = self;
        let what = format!(
            "a product's matrix of {rows} x {columns} with {leading} from column to column"
        );
        if leading < rows {
            return Err(format!("{what} overlaps itself"));
        }
        let piece = memory.piece(start, values * self.kind.size());
        piece.map_err(|finding| format!("{what}: {finding}"))?;
        Ok(self)
    }

    /// Returns the address of a value by its index.
    fn pointer(self, index: usize) -> *mut u8 {
        (self.start as *mut u8).wrapping_add(index * self.kind.size())
    }

    fn values(self) -> Vec<f32> {
        let indices = (0..self.columns)
            .flat_map(|column| (0..self.rows).map(move |row| column * self.leading + row));
        // SAFETY: `nth` has checked that all values are in memory.
        indices
            .map(|index| {
                self.kind
                    .to_f32(unsafe { self.kind.load(self.pointer(index)) })
            })
            .collect()
    }
}

/// The product `c = alpha a b + beta c`, where `a` and `b` may be transposed.
struct Product {
    transposed: [bool; 2],
    alpha: f32,
    beta: f32,
    a: Matrix,
    b: Matrix,
    c: Matrix,
}

impl Product {
    fn run(&self, index: usize, memory: &Allocations) -> Result<(), String> {
        let [a, b, c] = [self.a, self.b, self.c].map(|matrix| matrix.nth(index, memory));
        let (a, b, c) = (a?, b?, c?);
        let (rows, columns) = (c.rows, c.columns);
        let inner = if self.transposed[0] {
            a.rows
        } else {
            a.columns
        };
        // Strides between rows and between columns.
        let steps = |matrix: Matrix, transposed: bool| {
            let steps = (1, matrix.rows as isize);
            if transposed {
                (steps.1, steps.0)
            } else {
                steps
            }
        };
        let (a_steps, b_steps) = (steps(a, self.transposed[0]), steps(b, self.transposed[1]));
        let (a, b) = (a.values(), b.values());
        let mut product = vec![0f32; rows * columns];
        // SAFETY: `product` has rows x columns values, and the others are as large as their
        // strides.
        unsafe {
            gemm::gemm(
                rows,
                columns,
                inner,
                product.as_mut_ptr(),
                rows as isize,
                1,
                false,
                a.as_ptr(),
                a_steps.1,
                a_steps.0,
                b.as_ptr(),
                b_steps.1,
                b_steps.0,
                0.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::Rayon(0),
            );
        }
        for (column, values) in product.chunks(rows).enumerate() {
            for (row, value) in values.iter().enumerate() {
                let pointer = c.pointer(column * c.leading + row);
                // SAFETY: `nth` has checked that all values are in memory.
                unsafe {
                    // With `beta` 0, `c` may hold NaN and is not read.
                    let before = if self.beta == 0.0 {
                        0.0
                    } else {
                        self.beta * c.kind.to_f32(c.kind.load(pointer))
                    };
                    c.kind
                        .store(pointer, c.kind.bits_of(self.alpha * value + before));
                }
            }
        }
        Ok(())
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasGemmStridedBatchedEx(
    _: *mut c_void,
    transpose_a: c_int,
    transpose_b: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: *const c_void,
    a: *const c_void,
    a_type: c_int,
    a_leading: c_int,
    a_stride: c_longlong,
    b: *const c_void,
    b_type: c_int,
    b_leading: c_int,
    b_stride: c_longlong,
    beta: *const c_void,
    c: *mut c_void,
    c_type: c_int,
    c_leading: c_int,
    c_stride: c_longlong,
    batch: c_int,
    _compute_type: c_int,
    _algorithm: c_int,
) -> Status {
    let [Some(a_type), Some(b_type), Some(c_type)] = [a_type, b_type, c_type].map(type_of) else {
        return NOT_SUPPORTED;
    };
    let matrix = |start: *const c_void,
                  kind,
                  [rows, columns]: [c_int; 2],
                  leading: c_int,
                  stride: c_longlong| Matrix {
        start: start as u64,
        kind,
        rows: rows as usize,
        columns: columns as usize,
        leading: leading as usize,
        stride: stride as usize,
    };
    let transposed = [transpose_a, transpose_b].map(|operation| operation != 0);
    let sizes = |transposed, [rows, columns]: [c_int; 2]| {
        if transposed {
            [columns, rows]
        } else {
            [rows, columns]
        }
    };
    let product = Product {
        transposed,
        // SAFETY: the compute type is f32, and so is the type of `alpha`.
        alpha: unsafe { alpha.cast::<f32>().read() },
        // SAFETY: as for `alpha`.
        beta: unsafe { beta.cast::<f32>().read() },
        a: matrix(a, a_type, sizes(transposed[0], [m, k]), a_leading, a_stride),
        b: matrix(b, b_type, sizes(transposed[1], [k, n]), b_leading, b_stride),
        c: matrix(c, c_type, [m, n], c_leading, c_stride),
    };
    with(|device| {
        device.enqueue(
            format_args!("product: {batch} of {m} x {n} x {k}"),
            move |memory| (0..batch as usize).try_for_each(|index| product.run(index, memory)),
        );
    });
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasDgemmStridedBatched() -> Status {
    NOT_SUPPORTED
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::{cuMemAlloc_v2, cuMemcpyDtoHAsync_v2, cuMemcpyHtoDAsync_v2};

    fn upload(values: &[f32]) -> u64 {
        let (mut address, size) = (0, size_of_val(values));
        // SAFETY: `values` has `size` readable bytes.
        unsafe {
            assert_eq!(cuMemAlloc_v2(&raw mut address, size), SUCCESS);
            assert_eq!(
                cuMemcpyHtoDAsync_v2(address, values.as_ptr().cast(), size, ONLY),
                SUCCESS
            );
        }
        address
    }

    /// Computes `c = alpha op(a) op(b) + beta c` for two pairs of matrices, with a gap after each
    /// column of `c`.
    #[test]
    fn products_follow_strides_and_leading_dimensions() {
        let _alone = crate::device::alone();
        let (m, n, k) = (2, 3, 4);
        let a: Vec<f32> = (0..16).map(|x| x as f32).collect();
        let b: Vec<f32> = (0..24).map(|x| (x * x % 7) as f32).collect();
        for (transpose_a, transpose_b) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let [a_leading, b_leading] = [
                if transpose_a == 1 { k } else { m },
                if transpose_b == 1 { n } else { k },
            ];
            let addresses = [upload(&a), upload(&b), upload(&[1.0; 24])];
            let [alpha, beta] = [2f32, 3f32];
            let status = unsafe {
                cublasGemmStridedBatchedEx(
                    ONLY,
                    transpose_a,
                    transpose_b,
                    m,
                    n,
                    k,
                    (&raw const alpha).cast(),
                    addresses[0] as *const c_void,
                    0,
                    a_leading,
                    8,
                    addresses[1] as *const c_void,
                    0,
                    b_leading,
                    12,
                    (&raw const beta).cast(),
                    addresses[2] as *mut c_void,
                    0,
                    4,
                    12,
                    2,
                    68,
                    99,
                )
            };
            assert_eq!(status, SUCCESS);
            let mut actual = [0f32; 24];
            cuMemcpyDtoHAsync_v2(
                actual.as_mut_ptr().cast(),
                addresses[2],
                size_of_val(&actual),
                ONLY,
            );
            let at = |values: &[f32], row: usize, column: usize, leading: i32, transpose: i32| {
                let leading = leading as usize;
                values[if transpose == 1 {
                    row * leading + column
                } else {
                    column * leading + row
                }]
            };
            let mut expected = [1f32; 24];
            for (batch, row, column) in (0..12).map(|i| (i / 6, i % 2, i / 2 % 3)) {
                let (a, b) = (&a[8 * batch..], &b[12 * batch..]);
                let sum: f32 = (0..4)
                    .map(|inner| {
                        at(a, row, inner, a_leading, transpose_a)
                            * at(b, inner, column, b_leading, transpose_b)
                    })
                    .sum();
                expected[12 * batch + 4 * column + row] = alpha * sum + beta;
            }
            let bits = |values: [f32; 24]| values.map(f32::to_bits);
            assert_eq!(bits(actual), bits(expected), "{transpose_a} {transpose_b}");
        }
    }
}
