#![no_main]
//! See `fuzz::transport_feedback`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::transport_feedback::run(data));
