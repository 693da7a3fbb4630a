//! The files of the bundled model. `bundled/README.md` tells how it was made.

/// The name of the bundled model, which is used like a directory or a hub id. A directory with this
/// name can be opened as `./bundled`.
pub const NAME: &str = "bundled";

/// The content of one of its files.
pub(super) fn file(name: &str) -> Option<&'static [u8]> {
    macro_rules! files {
        ($($name:literal)*) => {
            match name {
                $($name => Some(include_bytes!(concat!("../../bundled/", $name)).as_slice()),)*
                _ => None,
            }
        };
    }
    files!("config.json" "tokenizer.json" "tokenizer_config.json" "sentence_bert_config.json" "modules.json" "1_Pooling/config.json" "model.safetensors")
}
