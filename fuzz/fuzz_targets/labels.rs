//! Label selectors, as callers of the API send them: any text is a selector or an error, and one that is can be asked.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outcrop_fuzz::run("labels", data));
