#![no_main]
//! A config.json with any content gives an error or a configuration that can be computed.
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    gte_core_fuzz::with_file("config.json", data, |files| {
        if let Ok(config) = gte_core::ModelConfig::read(&files, None) {
            assert!(config.hidden > 0 && config.layers > 0 && config.max_length <= config.max_positions);
        }
    });
});
