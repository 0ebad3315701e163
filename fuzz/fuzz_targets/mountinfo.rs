//! The kernel's mountinfo, which holds paths that anyone may name.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outcrop_fuzz::run("mountinfo", data));
