#![no_main]
//! See `fuzz::av1`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::av1::run(data));
