#![no_main]
//! tokenizer_config.json of any content: an error or something that works.
libfuzzer_sys::fuzz_target!(|data: &[u8]| gte_core_fuzz::with_file("tokenizer_config.json", data, gte_core_fuzz::tokenize));
