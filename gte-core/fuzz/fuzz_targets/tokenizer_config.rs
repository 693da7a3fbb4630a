#![no_main]
//! A tokenizer_config.json with any content gives an error or works.
libfuzzer_sys::fuzz_target!(|data: &[u8]| gte_core_fuzz::with_file("tokenizer_config.json", data, gte_core_fuzz::tokenize));
