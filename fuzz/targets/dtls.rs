#![no_main]
//! See `fuzz::dtls`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::dtls::run(data));
