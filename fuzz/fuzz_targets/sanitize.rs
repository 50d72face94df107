#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| agentsandbox_fuzz::sanitize(data));
