//! The files of the small Chinese and English model that gte-core opens by the name `bundled`. They
//! are a crate of their own so that only those who ask for them, by gte-core's feature `bundled`,
//! download and link their 9 MB. `README.md` says what the model is good for and how it was made.
#![no_std]

/// Path and content of each file, in the layout of sentence-transformers.
pub static FILES: &[(&str, &[u8])] = &[
    ("config.json", include_bytes!("../config.json")),
    ("tokenizer.json", include_bytes!("../tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../tokenizer_config.json")),
    ("sentence_bert_config.json", include_bytes!("../sentence_bert_config.json")),
    ("modules.json", include_bytes!("../modules.json")),
    ("1_Pooling/config.json", include_bytes!("../1_Pooling/config.json")),
    ("model.safetensors", include_bytes!("../model.safetensors")),
];
