//! The kernel for AMX tiles: Intel's servers since Sapphire Rapids.
//!
//! `tdpbf16ps` multiplies 16 rows of 16 pairs by 16 pairs of 16 columns and adds the products to
//! 256 sums. Four of the eight tile registers hold the sums of 32 rows and columns, two hold rows,
//! two hold columns. std has no stable functions for these instructions, so they are assembly; the
//! compiler itself never uses tile registers, so they keep their values from one function to the
//! next.

use std::arch::asm;

#[cfg(target_os = "linux")]
use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

use super::tile::{MOST_ROWS, Sums, TILE_COLUMNS};

mod left;
mod product;

pub(super) use left::Left;
pub(super) use product::multiply;

/// Most rows of a tile.
pub(super) const ROWS: usize = MOST_ROWS;

/// Fewest rows of a product.
pub(super) const FEWEST_ROWS: usize = SIDE;

/// Number of rows of a tile register, and of pairs in each.
const SIDE: usize = 16;

/// Number of values of the inner dimension in a tile register.
const STEP: usize = 2 * SIDE;

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

/// The tile registers of this thread, configured until this is dropped.
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

    /// Makes all sums zero.
    #[allow(unsafe_code)]
    #[allow(clippy::unused_self)] // It proves that the registers are configured.
    pub(super) fn zero(&self) {
        // SAFETY: the registers are configured, so the instructions exist; they touch no memory.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                options(nostack, nomem),
            );
        }
    }

    /// Adds the products of `rows` and a panel of columns, `[pairs, TILE_COLUMNS]`, over `steps`
    /// times 16 pairs.
    ///
    /// # Panics
    /// When an operand is shorter than that.
    #[allow(unsafe_code)]
    pub(super) fn add(&self, rows: Rows, columns: &[u32], steps: usize) {
        rows.check(steps);
        assert!(
            columns.len() >= steps * SIDE * TILE_COLUMNS,
            "a panel ends early"
        );
        if steps == 0 {
            return;
        }
        // SAFETY: the registers are configured, and both operands were checked.
        unsafe {
            match rows.lower {
                Some(lower) => self.add_32_rows(rows, lower, columns, steps),
                None => self.add_16_rows(rows, columns, steps),
            }
        }
    }

    /// Adds the products of 32 rows.
    ///
    /// # Safety
    /// `steps` is not 0, and the operands have so many.
    #[allow(unsafe_code)]
    #[allow(clippy::unused_self)]
    unsafe fn add_32_rows(&self, rows: Rows, lower: &[u16], columns: &[u32], steps: usize) {
        // SAFETY: by the contract, every load stays inside the operands: 16 rows, `row_step` values
        // apart, of 64 bytes per step, twice; 16 pairs, `COLUMNS` bytes apart, of twice 64 bytes,
        // per step.
        unsafe {
            asm!(
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
                upper = inout(reg) rows.upper.as_ptr() => _,
                lower = inout(reg) lower.as_ptr() => _,
                right = inout(reg) columns.as_ptr() => _,
                steps = inout(reg) steps => _,
                row = in(reg) 2 * rows.row_step,
                columns = in(reg) COLUMNS,
                next = const SIDE * COLUMNS,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly),
            );
        }
    }

    /// Adds the products of 16 rows.
    ///
    /// # Safety
    /// As for [`Tiles::add_32_rows`].
    #[allow(unsafe_code)]
    #[allow(clippy::unused_self)]
    unsafe fn add_16_rows(&self, rows: Rows, columns: &[u32], steps: usize) {
        // SAFETY: as in `add_32_rows`, with the upper 16 rows only.
        unsafe {
            asm!(
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
                upper = inout(reg) rows.upper.as_ptr() => _,
                right = inout(reg) columns.as_ptr() => _,
                steps = inout(reg) steps => _,
                row = in(reg) 2 * rows.row_step,
                columns = in(reg) COLUMNS,
                next = const SIDE * COLUMNS,
                out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly),
            );
        }
    }

    /// Writes the sums.
    #[allow(unsafe_code)]
    #[allow(clippy::unused_self)]
    pub(super) fn store(&self, sums: &mut Sums) {
        // SAFETY: the registers are configured; `Sums` has 32 rows of `COLUMNS` bytes.
        unsafe {
            asm!(
                "tilestored [{sums} + {columns}*1], tmm0",
                "tilestored [{sums} + {columns}*1 + 64], tmm1",
                "tilestored [{sums} + {columns}*1 + {next}], tmm2",
                "tilestored [{sums} + {columns}*1 + {next} + 64], tmm3",
                sums = in(reg) sums.0.as_mut_ptr(),
                columns = in(reg) COLUMNS,
                next = const SIDE * COLUMNS,
                options(nostack),
            );
        }
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

/// Bytes of a row of columns, and of sums.
const COLUMNS: usize = 4 * TILE_COLUMNS;

/// 16 or 32 rows of bf16 values, over whole steps of 16 pairs.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// From the first value of the first row on.
    upper: &'a [u16],
    /// From the first value of the 17th row on, if there are 32.
    lower: Option<&'a [u16]>,
    /// Number of values from one row to the next.
    row_step: usize,
}

impl Rows<'_> {
    /// Asserts that loads stay inside the slices.
    fn check(&self, steps: usize) {
        let len = (SIDE - 1) * self.row_step + 2 * SIDE * steps;
        let holds = |rows: &[u16]| len <= rows.len();
        assert!(
            holds(self.upper) && self.lower.is_none_or(holds),
            "a tile reaches beyond its operands"
        );
    }
}

#[cfg(test)]
mod tests;
