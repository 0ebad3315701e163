//! The kernel's mountinfo, which holds paths that anyone may name.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = outcrop_agent::scan::mounted_root(data, "k8s.io", "1", Some(b"/upper"));
});
