#![no_main]

use std::panic;
use std::sync::Once;

/// Silences the panic hook, once. Panics of the `parquet` crate are caught and become errors, but
/// the fuzzer's own hook would end the process before that. Uncaught panics still end it.
static QUIET: Once = Once::new();

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    QUIET.call_once(|| panic::set_hook(Box::new(|_| {})));
    fuzz_bodies::parquet(input);
});
