//! Tests on small kernels, written by hand.

use super::{Launch, decode, kernels};
use crate::memory::Allocations;

/// Returns the text of a kernel with this body, whose parameters are addresses.
fn text(parameters: usize, body: &str) -> String {
    let parameters: Vec<String> = (0..parameters)
        .map(|index| format!(".param .u64 p{index}"))
        .collect();
    format!(
        ".version 8.0\n.visible .entry k({})\n{{ .reg .pred %p<9>; .reg .b32 %r<9>; .reg .f32 %f<9>; .reg .b64 %rd<9>;\n{body}\n}}",
        parameters.join(", ")
    )
}

/// Runs a kernel on buffers of numbers, and returns the final content of the first.
fn run(body: &str, blocks: u32, threads: u32, buffers: &[&[u32]]) -> Result<Vec<u32>, String> {
    let mut memory = Allocations::default();
    let addresses: Vec<u64> = buffers
        .iter()
        .map(|buffer| {
            let address = memory.allocate(4 * buffer.len());
            // SAFETY: the allocation has room for these values.
            unsafe {
                (address as *mut u32).copy_from_nonoverlapping(buffer.as_ptr(), buffer.len());
            };
            address
        })
        .collect();
    let kernel = decode(&kernels(&text(buffers.len(), body))["k"]);
    let launch = Launch {
        kernel: &kernel,
        blocks: [blocks, 1, 1],
        threads: [threads, 1, 1],
        shared: kernel.shared,
        parameters: &addresses
            .iter()
            .flat_map(|address| address.to_le_bytes())
            .collect::<Vec<u8>>(),
        memory: &memory,
    };
    launch.run()?;
    // SAFETY: the allocation has this many values, all of which were written.
    Ok(
        unsafe { std::slice::from_raw_parts(addresses[0] as *const u32, buffers[0].len()) }
            .to_vec(),
    )
}

/// Puts the address of the thread's value in the first buffer into `%rd1`, and its index among all
/// threads into `%r1`.
const ITS_VALUE: &str = "
    mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x;
    mad.lo.s32 %r1, %r2, %r3, %r4;
    ld.param.u64 %rd2, [p0]; cvta.to.global.u64 %rd2, %rd2;
    mul.wide.u32 %rd1, %r1, 4; add.s64 %rd1, %rd2, %rd1;";

#[test]
fn threads_read_their_indices_and_branch() {
    let body = format!(
        "{ITS_VALUE}
        setp.ge.u32 %p1, %r1, 6; @%p1 bra $L__end;
        setp.lt.u32 %p2, %r1, 2; @!%p2 bra $L__more; mov.u32 %r5, 100; bra.uni $L__store;
        $L__more: add.s32 %r5, %r1, 10;
        $L__store: st.global.u32 [%rd1], %r5;
        $L__end: ret;"
    );
    let actual = run(&body, 2, 4, &[&[7; 8]]).unwrap();
    assert_eq!(actual, [100, 100, 12, 13, 14, 15, 7, 7]);
}

/// The sum of a block's values as in real kernels: within warps by shuffles, then across warps by
/// shared memory.
#[test]
fn shuffles_barriers_and_shared_memory_work() {
    let shuffles: String = [16, 8, 4, 2, 1]
        .map(|bits| {
            format!("shfl.sync.bfly.b32 %r6|%p3, %r5, {bits}, 31, -1; add.s32 %r5, %r5, %r6;")
        })
        .concat();
    let body = format!(
        ".shared .align 4 .b8 sums[8];
        {ITS_VALUE}
        ld.global.u32 %r5, [%rd1];
        {shuffles}
        shr.u32 %r7, %r4, 5; shl.b32 %r7, %r7, 2; mov.u32 %r8, sums; add.s32 %r8, %r8, %r7;
        st.shared.u32 [%r8], %r5;
        bar.sync 0;
        ld.shared.v2.u32 {{%r5, %r6}}, [sums];
        add.s32 %r5, %r5, %r6;
        st.global.u32 [%rd1], %r5;
        ret;"
    );
    let values: Vec<u32> = (0..128).collect();
    let actual = run(&body, 2, 64, &[&values]).unwrap();
    let sum = |values: std::ops::Range<u32>| values.sum::<u32>();
    assert!(actual[..64].iter().all(|x| *x == sum(0..64)));
    assert!(actual[64..].iter().all(|x| *x == sum(64..128)));
}

#[test]
fn atomic_additions_of_all_blocks_are_kept() {
    let one = 1f32.to_bits();
    let body = "ld.param.u64 %rd1, [p0]; atom.global.add.f32 %f1, [%rd1], 0f3F800000; ret;";
    assert_eq!(run(body, 50, 20, &[&[one]]).unwrap(), [1001f32.to_bits()]);
}

#[test]
fn invalid_accesses_are_errors_with_their_thread() {
    let refused =
        |body: &str| run(&format!("{ITS_VALUE}{body} ret;"), 1, 40, &[&[0; 33]]).unwrap_err();
    let outside = refused("st.global.u32 [%rd1], %r1;");
    assert!(
        outside.contains("kernel k, block [0, 0, 0], thread 33: 4 bytes at"),
        "{outside}"
    );
    assert!(outside.contains("has 132 bytes"), "{outside}");
    let crooked = refused("ld.global.u32 %r5, [%rd2+2];");
    assert!(crooked.contains("no multiple"), "{crooked}");
    let unknown = refused("setp.ne.u32 %p1, %r1, 5; @%p1 bra $L__end; brkpt; $L__end:");
    assert!(
        unknown.contains("thread 5: not known here: brkpt"),
        "{unknown}"
    );
    // The second warp has eight threads; those that have not exited would wait forever.
    let alone = refused(
        "setp.lt.u32 %p1, %r1, 3; @%p1 bra $L__end; shfl.sync.bfly.b32 %r5, %r1, 1, 31, -1; $L__end:",
    );
    assert!(alone.contains("do not come"), "{alone}");
}
