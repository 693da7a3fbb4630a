//! The names of the files that a model's folders may contain. Downloading, reading and quantizing
//! use the same lists, so that no file is read in one place and forgotten in another.

/// Files that are read from the transformer's folder, if they exist. `adapter_config.json` is read
/// to be refused.
pub(crate) const TRANSFORMER: [&str; 9] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "adapter_config.json",
    "sparse_linear.pt",
    "colbert_linear.pt",
];

/// Files of the same folder: the settings of sentence-transformers are in the first of these that
/// has any content.
pub(crate) const SENTENCE_TRANSFORMERS: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

/// Files of the same folder that are read instead of a `tokenizer.json`.
pub(crate) const VOCABULARIES: [&str; 4] = ["vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model"];
