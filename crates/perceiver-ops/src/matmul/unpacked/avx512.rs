//! The kernel for AVX512-BF16 and operands that are not packed: tiles of 12 rows and 32 columns.

use std::arch::asm;
use std::arch::x86_64::{
    __m256bh, __m256i, __m512, __mmask16, _mm256_mask_storeu_epi16, _mm512_add_ps,
    _mm512_cvtneps_pbh, _mm512_dpbf16_ps, _mm512_loadu_si512, _mm512_mask_storeu_ps,
    _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
};

use super::{GROUP, Place, Product, Step, Tile};
use crate::cpu::gemm::Sum;
use crate::matmul::avx512::{LANES, bf16s, mask};
use crate::matmul::tile::TILE_COLUMNS;

/// Numbers of rows of a tile: 12, whose sums take 24 of 32 registers, or at most 8.
pub(super) const HEIGHTS: [usize; 2] = [ROWS, 8];

const ROWS: usize = 12;

/// Number of registers for a row's sums.
const VECTORS: usize = TILE_COLUMNS / LANES;

/// Computes a tile.
///
/// # Safety
/// The CPU has AVX512-BF16.
#[allow(unsafe_code)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn run(tile: &Tile, product: &mut Product) {
    macro_rules! sums {
        ($rows:literal, $add_up:ident) => {{
            let mut sums = [[_mm512_setzero_ps(); VECTORS]; $rows];
            for block in tile.blocks {
                let step = tile.step(block);
                check::<$rows>(&step, tile);
                // SAFETY: the CPU has the instructions by this function's contract, and the step
                // was checked.
                sums = unsafe {
                    if tile.is_packed {
                        $add_up::<$rows, true>(sums, &step, tile.row_step)
                    } else {
                        $add_up::<$rows, false>(sums, &step, tile.row_step)
                    }
                };
            }
            // SAFETY: likewise.
            unsafe { write(&sums, &tile.place, product) }
        }};
    }
    match tile.count {
        1 => sums!(1, add_up),
        2 => sums!(2, add_up),
        3 => sums!(3, add_up),
        4 => sums!(4, add_up),
        5 => sums!(5, add_up),
        6 => sums!(6, add_up),
        7 => sums!(7, add_up),
        8 => sums!(8, add_up),
        ROWS => sums!(12, add_up_12),
        rows => unreachable!("a tile of {rows} rows"),
    }
}

/// Scales the sums of a tile and writes them, with the bias.
///
/// # Safety
/// The CPU has AVX512-BF16.
#[allow(unsafe_code)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(in crate::matmul) unsafe fn write(
    sums: &[[__m512; VECTORS]],
    place: &Place,
    product: &mut Product,
) {
    let width = place.width;
    let masks = [0, 1].map(|vector| mask(width.saturating_sub(vector * LANES)));
    let bias = place.bias.map(|bias| {
        assert!(bias.len() == width, "length of a bias");
        // SAFETY: the masks exclude what is beyond the bias.
        [0, 1].map(|vector| unsafe { load(bias, vector, masks) })
    });
    let scale = _mm512_set1_ps(place.scale);
    for (row, sums) in sums.iter().enumerate() {
        let mut values = sums.map(|sums| _mm512_mul_ps(scale, sums));
        let start = |row_stride: usize| (place.row + row) * row_stride + place.column;
        match product {
            Product::F32(target, sum) => {
                let to = &mut target.values[start(target.row_stride)..][..width];
                for vector in 0..VECTORS {
                    let value = &mut values[vector];
                    // SAFETY: the masks exclude what is beyond the row.
                    unsafe {
                        if *sum == Sum::Add {
                            *value = _mm512_add_ps(load(to, vector, masks), *value);
                        }
                        if let Some(bias) = bias {
                            *value = _mm512_add_ps(*value, bias[vector]);
                        }
                        let to = to.as_mut_ptr().wrapping_add(vector * LANES);
                        _mm512_mask_storeu_ps(to, masks[vector], *value);
                    }
                }
            }
            Product::Bf16 {
                values: to,
                row_stride,
            } => {
                let to = &mut to[start(*row_stride)..][..width];
                for vector in 0..VECTORS {
                    let value = match bias {
                        Some(bias) => _mm512_add_ps(values[vector], bias[vector]),
                        None => values[vector],
                    };
                    let to = to.as_mut_ptr().wrapping_add(vector * LANES);
                    // SAFETY: the masks exclude what is beyond the row. Both types are 16 values of
                    // 16 bits.
                    unsafe {
                        let rounded =
                            std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(value));
                        _mm256_mask_storeu_epi16(to.cast(), masks[vector], rounded);
                    }
                }
            }
        }
    }
}

/// Loads a vector of a row; what is beyond the row is 0.
///
/// # Safety
/// The CPU has AVX-512, and the masks exclude what is beyond the row.
#[allow(unsafe_code)]
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn load(row: &[f32], vector: usize, masks: [__mmask16; VECTORS]) -> __m512 {
    // SAFETY: by the contract.
    unsafe { _mm512_maskz_loadu_ps(masks[vector], row.as_ptr().wrapping_add(vector * LANES)) }
}

/// Asserts that [`add_up`] and [`add_up_12`] stay inside the slices.
#[inline]
fn check<const COUNT: usize>(step: &Step, tile: &Tile) {
    let Some(last) = step.pairs.checked_sub(1) else {
        return;
    };
    let pair_step = if tile.is_packed {
        pair_step::<true>()
    } else {
        pair_step::<false>()
    };
    let holds =
        |lhs: &[u16], rows: usize| (rows - 1) * tile.row_step + last * pair_step + 2 <= lhs.len();
    let are_inside = if COUNT == ROWS {
        step.lhs.iter().all(|group| holds(group, GROUP))
    } else {
        holds(step.lhs[0], COUNT)
    };
    assert!(
        are_inside && step.pairs * TILE_COLUMNS <= step.columns.len(),
        "a tile reaches beyond its operands"
    );
}

/// Adds the products of a step, all in registers.
///
/// # Safety
/// The CPU has AVX512-BF16, and [`check`] passes.
#[allow(unsafe_code)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
#[inline]
unsafe fn add_up<const COUNT: usize, const IS_PACKED: bool>(
    mut sums: [[__m512; VECTORS]; COUNT],
    step: &Step,
    row_step: usize,
) -> [[__m512; VECTORS]; COUNT] {
    let mut columns = step.columns.as_ptr();
    let mut pairs = step.lhs[0].as_ptr();
    for _ in 0..step.pairs {
        // SAFETY: by the contract, every row has a pair here, and the panel two vectors.
        unsafe {
            let first = bf16s(_mm512_loadu_si512(columns.cast()));
            let second = bf16s(_mm512_loadu_si512(columns.add(LANES).cast()));
            for (row, sums) in sums.iter_mut().enumerate() {
                let pair = pairs.add(row * row_step).cast::<[u16; 2]>().read();
                let left = bf16s(_mm512_set1_epi32(i32::from_ne_bytes(bytemuck::cast(pair))));
                sums[0] = _mm512_dpbf16_ps(sums[0], left, first);
                sums[1] = _mm512_dpbf16_ps(sums[1], left, second);
            }
        }
        columns = columns.wrapping_add(TILE_COLUMNS);
        pairs = pairs.wrapping_add(pair_step::<IS_PACKED>());
    }
    sums
}

/// Computes [`add_up`] for 12 rows. In Rust, the compiler loads all pairs of a step before it uses
/// the first, which takes more registers than there are.
///
/// # Safety
/// As for [`add_up`].
#[allow(unsafe_code)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
#[inline]
unsafe fn add_up_12<const COUNT: usize, const IS_PACKED: bool>(
    mut sums: [[__m512; VECTORS]; COUNT],
    step: &Step,
    row_step: usize,
) -> [[__m512; VECTORS]; COUNT] {
    const { assert!(COUNT == ROWS) };
    if step.pairs == 0 {
        return sums;
    }
    // SAFETY: by the contract, all loads stay inside the slices; the loop runs at least once.
    unsafe {
        asm!(
            "2:",
            "vmovdqu32 zmm28, zmmword ptr [{columns}]",
            "vmovdqu32 zmm29, zmmword ptr [{columns} + 64]",
            "vpbroadcastd zmm30, dword ptr [{group_0}]",
            "vdpbf16ps zmm0, zmm30, zmm28",
            "vdpbf16ps zmm1, zmm30, zmm29",
            "vpbroadcastd zmm30, dword ptr [{group_0} + {row_step}]",
            "vdpbf16ps zmm2, zmm30, zmm28",
            "vdpbf16ps zmm3, zmm30, zmm29",
            "vpbroadcastd zmm30, dword ptr [{group_0} + 2*{row_step}]",
            "vdpbf16ps zmm4, zmm30, zmm28",
            "vdpbf16ps zmm5, zmm30, zmm29",
            "vpbroadcastd zmm30, dword ptr [{group_0} + {three_rows}]",
            "vdpbf16ps zmm6, zmm30, zmm28",
            "vdpbf16ps zmm7, zmm30, zmm29",
            "vpbroadcastd zmm30, dword ptr [{group_1}]",
            "vdpbf16ps zmm8, zmm30, zmm28",
            "vdpbf16ps zmm9, zmm30, zmm29",
            "vpbroadcastd zmm30, dword ptr [{group_1} + {row_step}]",
            "vdpbf16ps zmm10, zmm30, zmm28",
            "vdpbf16ps zmm11, zmm30, zmm29",
            "vpbroadcastd zmm30, dword ptr [{group_1} + 2*{row_step}]",
            "vdpbf16ps zmm12, zmm30, zmm28",
            "vdpbf16ps zmm13, zmm30, zmm29",
            "vpbroadcastd zmm30, dword ptr [{group_1} + {three_rows}]",
            "vdpbf16ps zmm14, zmm30, zmm28",
            "vdpbf16ps zmm15, zmm30, zmm29",
            "vpbroadcastd zmm30, dword ptr [{group_2}]",
            "vdpbf16ps zmm16, zmm30, zmm28",
            "vdpbf16ps zmm17, zmm30, zmm29",
            "vpbroadcastd zmm30, dword ptr [{group_2} + {row_step}]",
            "vdpbf16ps zmm18, zmm30, zmm28",
            "vdpbf16ps zmm19, zmm30, zmm29",
            "vpbroadcastd zmm30, dword ptr [{group_2} + 2*{row_step}]",
            "vdpbf16ps zmm20, zmm30, zmm28",
            "vdpbf16ps zmm21, zmm30, zmm29",
            "vpbroadcastd zmm30, dword ptr [{group_2} + {three_rows}]",
            "vdpbf16ps zmm22, zmm30, zmm28",
            "vdpbf16ps zmm23, zmm30, zmm29",
            "add {columns}, 128",
            "add {group_0}, {pair_step}",
            "add {group_1}, {pair_step}",
            "add {group_2}, {pair_step}",
            "dec {pairs}",
            "jnz 2b",
            columns = inout(reg) step.columns.as_ptr() => _,
            group_0 = inout(reg) step.lhs[0].as_ptr() => _,
            group_1 = inout(reg) step.lhs[1].as_ptr() => _,
            group_2 = inout(reg) step.lhs[2].as_ptr() => _,
            pairs = inout(reg) step.pairs => _,
            row_step = in(reg) 2 * row_step,
            three_rows = in(reg) 6 * row_step,
            pair_step = const 2 * pair_step::<IS_PACKED>(),
            inout("zmm0") sums[0][0],
            inout("zmm1") sums[0][1],
            inout("zmm2") sums[1][0],
            inout("zmm3") sums[1][1],
            inout("zmm4") sums[2][0],
            inout("zmm5") sums[2][1],
            inout("zmm6") sums[3][0],
            inout("zmm7") sums[3][1],
            inout("zmm8") sums[4][0],
            inout("zmm9") sums[4][1],
            inout("zmm10") sums[5][0],
            inout("zmm11") sums[5][1],
            inout("zmm12") sums[6][0],
            inout("zmm13") sums[6][1],
            inout("zmm14") sums[7][0],
            inout("zmm15") sums[7][1],
            inout("zmm16") sums[8][0],
            inout("zmm17") sums[8][1],
            inout("zmm18") sums[9][0],
            inout("zmm19") sums[9][1],
            inout("zmm20") sums[10][0],
            inout("zmm21") sums[10][1],
            inout("zmm22") sums[11][0],
            inout("zmm23") sums[11][1],
            out("zmm28") _,
            out("zmm29") _,
            out("zmm30") _,
            options(nostack, readonly),
        );
    }
    sums
}

/// Returns the number of values from one pair of a row to the next.
const fn pair_step<const IS_PACKED: bool>() -> usize {
    if IS_PACKED { 2 * TILE_COLUMNS } else { 2 }
}
