#![no_main]
//! See `fuzz::rtp`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::rtp::run(data));
