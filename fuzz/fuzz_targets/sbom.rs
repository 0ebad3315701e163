//! CycloneDX documents: any bytes are a list or an error.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = outcrop::export::cyclonedx::read(data);
});
