#![no_main]
//! A model.safetensors with any content gives an error or works.
libfuzzer_sys::fuzz_target!(|data: &[u8]| gte_core_fuzz::with_file("model.safetensors", data, gte_core_fuzz::read_weights));
