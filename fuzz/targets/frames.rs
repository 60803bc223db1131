#![no_main]
//! See `fuzz::frames`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::frames::run(data));
