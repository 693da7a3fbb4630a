#![no_main]
//! A vocab.txt with any content gives an error or works.
libfuzzer_sys::fuzz_target!(|data: &[u8]| gte_core_fuzz::with_file("vocab.txt", data, gte_core_fuzz::tokenize));
