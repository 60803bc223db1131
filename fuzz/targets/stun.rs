#![no_main]
//! See `fuzz::stun`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::stun::run(data));
