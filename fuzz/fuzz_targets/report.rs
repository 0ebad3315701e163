//! What a node sends to the aggregator, when it is not an agent that sends it.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outcrop_fuzz::run("report", data));
