#![no_main]
//! See `fuzz::dependency`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::dependency::run(data));
