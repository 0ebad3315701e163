//! CycloneDX documents: any bytes are a list or an error.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outcrop_fuzz::run("sbom", data));
