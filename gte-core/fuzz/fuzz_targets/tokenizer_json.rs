#![no_main]
//! A tokenizer.json with any content gives an error or works.
libfuzzer_sys::fuzz_target!(|data: &[u8]| gte_core_fuzz::with_file("tokenizer.json", data, gte_core_fuzz::tokenize));
