//! os-release: any bytes are a fact or an error, never a panic.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outcrop_fuzz::run("os_release", data));
