#![no_main]
//! See `fuzz::token`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::token::run(data));
