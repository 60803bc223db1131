#![no_main]
//! See `fuzz::vp8`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::vp8::run(data));
