#![no_main]
//! model.safetensors of any content: an error or something that works.
libfuzzer_sys::fuzz_target!(|data: &[u8]| gte_core_fuzz::with_file("model.safetensors", data, gte_core_fuzz::read_weights));
