#![no_main]
//! A pytorch_model.bin with any content gives an error or works.
libfuzzer_sys::fuzz_target!(|data: &[u8]| gte_core_fuzz::with_file("pytorch_model.bin", data, gte_core_fuzz::read_weights));
