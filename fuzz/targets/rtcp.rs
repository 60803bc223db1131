#![no_main]
//! See `fuzz::rtcp`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::rtcp::run(data));
