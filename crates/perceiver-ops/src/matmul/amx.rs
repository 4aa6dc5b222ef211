//! The kernel for AMX tiles: Intel's servers since Sapphire Rapids.
//!
//! `tdpbf16ps` multiplies 16 rows of 16 pairs by 16 pairs of 16 columns and adds the products to
//! 256 sums. Four of the eight tile registers hold the sums of 32 rows and columns, two hold rows,
//! two hold columns. std has no stable functions for these instructions, so they are assembly.
//!
//! This file was written where no CPU has AMX; it compiles, but has not run. So it is off unless the
//! environment variable `PERCEIVER_AMX` is set.

use std::arch::asm;

#[cfg(target_os = "linux")]
use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

use super::tile::{Destination, MOST_ROWS, PAIRS, Sums, TILE_COLUMNS, Tile};

/// Most rows of a tile.
pub(super) const ROWS: usize = MOST_ROWS;

/// Number of rows of a tile register, and of pairs in each.
const SIDE: usize = 16;

/// Returns whether the CPU has AMX for bf16 and the system lets this process use it. Linux has to
/// be asked; other systems are not.
#[allow(unsafe_code)]
pub(super) fn is_available() -> bool {
    #[cfg(target_os = "linux")]
    {
        const BF16_AND_TILES: u32 = 1 << 22 | 1 << 24; // CPUID leaf 7, EDX
        const SYSTEM_SAVES_STATE: u32 = 1 << 27; // CPUID leaf 1, ECX: XGETBV exists
        const TILE_STATE: u64 = 1 << 17 | 1 << 18; // XCR0
        if __cpuid(0).eax < 7 || __cpuid(1).ecx & SYSTEM_SAVES_STATE == 0 {
            return false;
        }
        if __cpuid_count(7, 0).edx & BF16_AND_TILES != BF16_AND_TILES {
            return false;
        }
        // SAFETY: XGETBV exists by the test above.
        let saved = unsafe { saved_state() };
        saved & TILE_STATE == TILE_STATE && request_permission()
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// Returns the register XCR0: the parts of a thread's state that the system saves.
///
/// # Safety
/// The CPU has XGETBV.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
#[target_feature(enable = "xsave")]
unsafe fn saved_state() -> u64 {
    // SAFETY: register 0 always exists.
    unsafe { _xgetbv(0) }
}

/// Asks Linux for the use of tile registers by all threads of this process.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn request_permission() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const REQUEST_PERMISSION: i64 = 0x1023; // ARCH_REQ_XCOMP_PERM
    const TILE_DATA: i64 = 18;
    let result: i64;
    // SAFETY: the system call takes two numbers, touches no memory of this process, and changes the
    // registers named here.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") REQUEST_PERMISSION,
            in("rsi") TILE_DATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// The configuration of the tile registers of this thread, from [`Tiles::configure`] until it is
/// dropped.
pub(super) struct Tiles(());

impl Tiles {
    /// Makes all eight tile registers 16 rows of 64 bytes.
    ///
    /// # Safety
    /// [`is_available`] has returned `true`.
    #[allow(unsafe_code)]
    pub(super) unsafe fn configure() -> Self {
        #[repr(C, align(64))]
        struct Configuration {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            row_bytes: [u16; 16],
            rows: [u8; 16],
        }
        let mut configuration = Configuration {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        configuration.row_bytes[..8].fill(64);
        configuration.rows[..8].fill(16);
        // SAFETY: the instruction exists by the contract and reads the 64 bytes of the
        // configuration.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly));
        }
        Self(())
    }

    /// Computes a tile.
    #[allow(unsafe_code)]
    #[allow(clippy::unused_self)] // It proves that the registers are configured.
    pub(super) fn run(&self, tile: Tile, sums: &mut Sums, destination: &mut Destination) {
        let steps = tile.pairs.div_ceil(SIDE);
        let is_tall = tile.count > SIDE;
        tile.check(if is_tall { 2 * SIDE } else { SIDE }, steps * SIDE);
        if steps == 0 {
            sums.0 = [[0.0; TILE_COLUMNS]; MOST_ROWS];
        } else if is_tall {
            // SAFETY: tile registers are configured; the tile was checked for 32 rows and whole
            // steps.
            unsafe { add_up_32_rows(&tile, steps, sums) };
        } else {
            // SAFETY: likewise for 16 rows.
            unsafe { add_up_16_rows(&tile, steps, sums) };
        }
        destination.write(sums, tile.count, tile.width);
    }
}

impl Drop for Tiles {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: the registers were configured, so the instruction exists; it touches no memory.
        unsafe {
            asm!("tilerelease", options(nostack, nomem));
        }
    }
}

/// Bytes from one packed row to the next.
const ROW: usize = 4 * PAIRS;
/// Bytes of a row of columns, and of sums.
const COLUMNS: usize = 4 * TILE_COLUMNS;

/// Computes the sums of 32 rows and 32 columns over `steps` times 16 pairs.
///
/// # Safety
/// Tile registers are configured, `steps` is not 0, and `tile.check(32, 16 * steps)` passes.
#[allow(unsafe_code)]
unsafe fn add_up_32_rows(tile: &Tile, steps: usize, sums: &mut Sums) {
    // SAFETY: by the contract, every load stays inside the operands: 16 rows, `ROW` bytes apart, of
    // 64 bytes per step, twice; 16 pairs, `COLUMNS` bytes apart, of twice 64 bytes, per step.
    // `Sums` has 32 rows of `COLUMNS` bytes.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{upper} + {row}*1]",
            "tileloadd tmm6, [{right} + {columns}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{right} + {columns}*1 + 64]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{lower} + {row}*1]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {upper}, 64",
            "add {lower}, 64",
            "add {right}, {next}",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{sums} + {columns}*1], tmm0",
            "tilestored [{sums} + {columns}*1 + 64], tmm1",
            "tilestored [{sums} + {columns}*1 + {next}], tmm2",
            "tilestored [{sums} + {columns}*1 + {next} + 64], tmm3",
            upper = inout(reg) tile.rows.as_ptr() => _,
            lower = inout(reg) tile.rows.as_ptr().add(SIDE * PAIRS) => _,
            right = inout(reg) tile.columns.as_ptr() => _,
            steps = inout(reg) steps => _,
            sums = in(reg) sums.0.as_mut_ptr(),
            row = in(reg) ROW,
            columns = in(reg) COLUMNS,
            next = const SIDE * COLUMNS,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// Computes the sums of 16 rows and 32 columns over `steps` times 16 pairs.
///
/// # Safety
/// Tile registers are configured, `steps` is not 0, and `tile.check(16, 16 * steps)` passes.
#[allow(unsafe_code)]
unsafe fn add_up_16_rows(tile: &Tile, steps: usize, sums: &mut Sums) {
    // SAFETY: as in `add_up_32_rows`, with the upper 16 rows only.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "2:",
            "tileloadd tmm4, [{upper} + {row}*1]",
            "tileloadd tmm6, [{right} + {columns}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{right} + {columns}*1 + 64]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "add {upper}, 64",
            "add {right}, {next}",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{sums} + {columns}*1], tmm0",
            "tilestored [{sums} + {columns}*1 + 64], tmm1",
            upper = inout(reg) tile.rows.as_ptr() => _,
            right = inout(reg) tile.columns.as_ptr() => _,
            steps = inout(reg) steps => _,
            sums = in(reg) sums.0.as_mut_ptr(),
            row = in(reg) ROW,
            columns = in(reg) COLUMNS,
            next = const SIDE * COLUMNS,
            out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
