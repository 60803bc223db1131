#![no_main]
//! See `fuzz::sctp`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::sctp::run(data));
