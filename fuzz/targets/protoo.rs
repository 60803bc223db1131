#![no_main]
//! See `fuzz::protoo`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::protoo::run(data));
