//! Version orders: any strings are versions, and comparing them both ways agrees.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outcrop_fuzz::run("version", data));
