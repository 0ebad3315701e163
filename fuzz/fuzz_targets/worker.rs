//! What a worker sends to its parent, after the image that it read has taken it over.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outcrop_fuzz::run("worker", data));
