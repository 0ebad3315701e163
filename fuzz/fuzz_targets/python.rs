//! Python metadata and zipped eggs: any bytes are a fact or an error, never a panic.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    outcrop_fuzz::catalogue("python", b"site-packages/a-1.0.dist-info/METADATA", data);
    outcrop_fuzz::catalogue("python", b"site-packages/a-1.0-py3.egg", data);
});
