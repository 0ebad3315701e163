//! Image configurations: any bytes are diff IDs or an error.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outcrop_fuzz::run("image_config", data));
