#![no_main]
//! See `fuzz::transport`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::transport::run(data));
