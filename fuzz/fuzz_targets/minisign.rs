//! Signatures of advisory databases: any bytes are a signature or an error, and only what the key signed holds.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outcrop_fuzz::run("minisign", data));
