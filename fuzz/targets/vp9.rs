#![no_main]
//! See `fuzz::vp9`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::vp9::run(data));
