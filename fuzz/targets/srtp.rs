#![no_main]
//! See `fuzz::srtp`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::srtp::run(data));
