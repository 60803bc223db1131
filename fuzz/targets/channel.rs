#![no_main]
//! See `fuzz::channel`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::channel::run(data));
