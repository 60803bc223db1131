#![no_main]
//! See `fuzz::h264`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::h264::run(data));
