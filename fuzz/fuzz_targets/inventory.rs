//! Inventories: what decodes is canonical, so that its digest means something.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outcrop_fuzz::run("inventory", data));
