//! Questions of `who-has`: any text is a question that can be asked of a package of every type, or an error in one line.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outcrop_fuzz::run("question", data));
