//! OSV records, in JSON and in YAML: any bytes are a record or an error, and a record can be evaluated.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outcrop_fuzz::run("osv", data));
