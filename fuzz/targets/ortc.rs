#![no_main]
//! See `fuzz::ortc`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::ortc::run(data));
