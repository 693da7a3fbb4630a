#![no_main]
//! vocab.txt of any content: an error or something that works.
libfuzzer_sys::fuzz_target!(|data: &[u8]| gte_core_fuzz::with_file("vocab.txt", data, gte_core_fuzz::tokenize));
