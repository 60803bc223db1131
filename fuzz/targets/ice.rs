#![no_main]
//! See `fuzz::ice`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::ice::run(data));
