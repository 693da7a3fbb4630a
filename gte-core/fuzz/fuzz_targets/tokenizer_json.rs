#![no_main]
//! tokenizer.json of any content: an error or something that works.
libfuzzer_sys::fuzz_target!(|data: &[u8]| gte_core_fuzz::with_file("tokenizer.json", data, gte_core_fuzz::tokenize));
