//! cuBLAS and cuRAND, by NVIDIA's manuals, as far as candle and this project call them. Random numbers have generators and no more.

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

/// A type of values, by cuBLAS's number.
fn type_of(number: c_int) -> Option<Type> {
    Some(match number {
        0 => Type::F32,
        2 => Type::F16,
        14 => Type::Bf16,
        _ => return None,
    })
}

/// A matrix in columns, and the next one of its kind.
#[derive(Clone, Copy)]
struct Matrix {
    start: u64,
    kind: Type,
    rows: usize,
    columns: usize,
    /// Values from a column to the next.
    leading: usize,
    /// Values from a matrix to the next.
    stride: usize,
}

impl Matrix {
    /// The matrix of this number, all its values within memory.
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

    /// Where the value of this number lies.
    fn place(self, index: usize) -> *mut u8 {
        (self.start as *mut u8).wrapping_add(index * self.kind.size())
    }

    fn values(self) -> Vec<f32> {
        let places = (0..self.columns)
            .flat_map(|column| (0..self.rows).map(move |row| column * self.leading + row));
        // SAFETY: `nth` has seen that all its values are in memory.
        places
            .map(|index| {
                self.kind
                    .to_f32(unsafe { self.kind.load(self.place(index)) })
            })
            .collect()
    }
}

/// `c = alpha a b + beta c`, where `a` and `b` are taken as they lie or, if so said, transposed.
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
        // Steps from a row and from a column to the next.
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
        // SAFETY: `product` is rows x columns in columns, and the others are as large as their steps say.
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
                let place = c.place(column * c.leading + row);
                // SAFETY: `nth` has seen that all its values are in memory.
                unsafe {
                    // What is multiplied by 0 may be no number.
                    let before = if self.beta == 0.0 {
                        0.0
                    } else {
                        self.beta * c.kind.to_f32(c.kind.load(place))
                    };
                    c.kind
                        .store(place, c.kind.bits_of(self.alpha * value + before));
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
        // SAFETY: sums are in f32, and so are these two.
        alpha: unsafe { alpha.cast::<f32>().read() },
        // SAFETY: likewise.
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
        let (mut place, size) = (0, size_of_val(values));
        // SAFETY: there are so many bytes to read.
        unsafe {
            assert_eq!(cuMemAlloc_v2(&raw mut place, size), SUCCESS);
            assert_eq!(
                cuMemcpyHtoDAsync_v2(place, values.as_ptr().cast(), size, ONLY),
                SUCCESS
            );
        }
        place
    }

    /// `c = alpha op(a) op(b) + beta c` for two pairs of matrices, `c` with a gap behind each column.
    #[test]
    fn products_are_of_what_lies_where_the_caller_says() {
        let _alone = crate::device::alone();
        let (m, n, k) = (2, 3, 4);
        let a: Vec<f32> = (0..16).map(|x| x as f32).collect();
        let b: Vec<f32> = (0..24).map(|x| (x * x % 7) as f32).collect();
        for (transpose_a, transpose_b) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let [a_leading, b_leading] = [
                if transpose_a == 1 { k } else { m },
                if transpose_b == 1 { n } else { k },
            ];
            let places = [upload(&a), upload(&b), upload(&[1.0; 24])];
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
                    places[0] as *const c_void,
                    0,
                    a_leading,
                    8,
                    places[1] as *const c_void,
                    0,
                    b_leading,
                    12,
                    (&raw const beta).cast(),
                    places[2] as *mut c_void,
                    0,
                    4,
                    12,
                    2,
                    68,
                    99,
                )
            };
            assert_eq!(status, SUCCESS);
            let mut found = [0f32; 24];
            cuMemcpyDtoHAsync_v2(
                found.as_mut_ptr().cast(),
                places[2],
                size_of_val(&found),
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
            assert_eq!(bits(found), bits(expected), "{transpose_a} {transpose_b}");
        }
    }
}
