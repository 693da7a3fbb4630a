#![no_main]
//! pytorch_model.bin of any content: an error or something that works.
libfuzzer_sys::fuzz_target!(|data: &[u8]| gte_core_fuzz::with_file("pytorch_model.bin", data, gte_core_fuzz::read_weights));
