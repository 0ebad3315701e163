//! overlay's lowerdir syntax: any bytes are paths or an error.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outcrop_fuzz::run("lowerdir", data));
