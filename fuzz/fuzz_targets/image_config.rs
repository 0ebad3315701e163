//! Image configurations: any bytes are diff IDs or an error.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = outcrop_agent::worker::parse_image_config(data, true);
});
