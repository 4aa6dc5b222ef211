//! Sums against those of `TDPBF16PS` as Intel describes it.

use half::bf16;

use crate::RngKey;
use crate::matmul::kernel::Bf16Kernel;
use crate::matmul::packed_matrix::PackedMatrix;
use crate::matmul::unpacked::RowMajor;

/// Over 16 pairs, first and second values of the pairs are summed apart; then both sums are added,
/// and the result to the sum of the steps before. Products of bf16 numbers are exact in `f32`.
fn sum(left: impl Fn(usize) -> f32, right: impl Fn(usize) -> f32, inner: usize) -> f32 {
    let mut all = 0f32;
    for step in (0..inner).step_by(32) {
        let mut sums = [0f32; 2];
        for at in step..inner.min(step + 32) {
            sums[at % 2] += left(at) * right(at);
        }
        all += sums[0] + sums[1];
    }
    all
}

#[test]
fn sums_are_those_of_intels_description() {
    let Some(amx) = Bf16Kernel::all()
        .into_iter()
        .find(|kernel| kernel.to_string() == "AMX")
    else {
        return; // a CPU without it
    };
    let key = RngKey::new(1);
    let value = |i| bf16::from_f32((key.bits(i) >> 40) as f32 / 8_388_608.0 - 1.0);
    for (rows, inner, columns) in [(32, 256, 32), (70, 258, 40), (17, 600, 33), (300, 32, 64)] {
        let len = (rows * inner) as u64;
        let left: Vec<bf16> = (0..len).map(value).collect();
        let right: Vec<bf16> = (len..len + (inner * columns) as u64).map(value).collect();
        let packed = PackedMatrix::new(RowMajor::new(&right, inner, columns));
        let wide: Vec<f32> = left.iter().map(|x| x.to_f32()).collect();
        let mut product = vec![0f32; rows * columns];
        packed.multiply(amx, &wide, &mut product).unwrap();
        let mut rounded = vec![bf16::ZERO; rows * columns];
        packed.multiply_bf16(amx, &left, &mut rounded).unwrap();
        for (at, (found, rounded)) in product.iter().zip(rounded).enumerate() {
            let (row, column) = (at / columns, at % columns);
            let left = |k: usize| left[row * inner + k].to_f32();
            let right = |k: usize| right[k * columns + column].to_f32();
            let expected = sum(left, right, inner);
            assert_eq!(found.to_bits(), expected.to_bits(), "{row}, {column}");
            assert_eq!(rounded, bf16::from_f32(expected), "{row}, {column}");
        }
    }
}
