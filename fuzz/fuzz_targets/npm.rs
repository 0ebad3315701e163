//! Node.js manifests: any bytes are a fact or an error, never a panic.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    outcrop_fuzz::catalogue("npm", b"app/node_modules/a/package.json", data);
});
