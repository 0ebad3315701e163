//! Pods, as anybody may write them who may make one: any JSON is a specification or an error, and its issues are few.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outcrop_fuzz::run("pod", data));
