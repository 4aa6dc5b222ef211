#![no_main]

use std::panic;
use std::sync::Once;

/// Panics of the `parquet` crate are caught and become errors; the fuzzer's own hook would end the process before that. What
/// is not caught still ends it.
static QUIET: Once = Once::new();

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    QUIET.call_once(|| panic::set_hook(Box::new(|_| {})));
    fuzz_bodies::parquet(input);
});
