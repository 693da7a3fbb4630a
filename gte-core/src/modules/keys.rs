//! Every key that sentence-transformers 6.2.0 reads from `modules.json` and from the files of
//! modules, and what becomes of it here. `docs/model-files.md` shows this table.

use crate::json::Fate::{Harmless, Obeyed, Refused};
use crate::json::{Fate, Key};

pub(crate) const MODULES: &str = "modules.json";
pub(crate) const MODEL: &str = "config_sentence_transformers.json";
pub(crate) const TRANSFORMER: &str = "sentence_bert_config.json";
pub(crate) const POOLING: &str = "1_Pooling/config.json";
pub(crate) const DENSE: &str = "2_Dense/config.json";
pub(crate) const NORMALIZE: &str = "2_Normalize/config.json";
pub(crate) const DROPOUT: &str = "2_Dropout/config.json";
pub(crate) const LOGIT_SCORE: &str = "1_LogitScore/config.json";
pub(crate) const ADAPTER: &str = "adapter_config.json";

const fn key(file: &'static str, key: &'static str, fate: Fate, why: &'static str) -> Key {
    Key { file, key, fate, why }
}

/// The lines of one file.
pub(super) fn of(file: &str) -> Vec<Key> {
    KEYS.iter().filter(|key| key.file == file).copied().collect()
}

/// The table, in the order of the document.
#[rustfmt::skip]
pub(crate) const KEYS: &[Key] = &[
    key(MODULES, "type", Obeyed,
        "The last part of the class's name says which module it is: Transformer, Pooling, Dense, \
         Normalize, Dropout, LogitScore, by their old and their new paths. Any other is refused \
         by name, as is a class outside `sentence_transformers`, which is code in the repository."),
    key(MODULES, "path", Obeyed,
        "The module's folder: empty, `1_Pooling`, `./1_Pooling`, `0_Transformer/`. The \
         transformer's `config.json`, tokenizer and weights are read from its folder and from \
         nowhere else. A path out of the directory is refused."),
    key(MODULES, "name", Refused,
        "Two modules of one name, of which the reference drops one. Otherwise a label."),
    key(MODULES, "idx", Harmless,
        "Not read by the reference either: modules follow each other as they are listed."),
    key(MODULES, "kwargs", Harmless,
        "Names of arguments of `encode` that are handed to the module. There are none for a text."),

    key(MODEL, "prompts", Obeyed,
        "Names and the texts that are put before a text. `query` and `document` are always there, \
         empty unless given."),
    key(MODEL, "default_prompt_name", Obeyed,
        "The prompt of a text for which none is chosen. A name that is not in `prompts` is \
         refused."),
    key(MODEL, "truncate_dim", Obeyed,
        "Vectors are cut to so many values; ours have length 1 after the cut."),
    key(MODEL, "model_type", Obeyed,
        "`SentenceTransformer` or `CrossEncoder`; others are refused."),
    key(MODEL, "similarity_fn_name", Refused,
        "`dot`, `euclidean` and `manhattan` of a model without a Normalize compare lengths, and \
         vectors have length 1 here. Any other value says how the caller compares vectors, and \
         changes none."),
    key(MODEL, "activation_fn", Harmless,
        "A cross-encoder's scores are what is asked for here: the logit, or its sigmoid, which is \
         the default and the reference's own. Their order is the same."),
    key(MODEL, "keep_in_fp32_modules", Harmless,
        "Which layers stay in f32 where the others do not: `precision` says it here."),
    key(MODEL, "max_active_dims", Harmless, "Of a SparseEncoder, which `model_type` refuses."),
    key(MODEL, "requirements", Harmless, "Versions of Python packages."),
    key(MODEL, "__version__", Harmless,
        "The versions that wrote the model; the reference warns if they are newer than its own."),

    key(TRANSFORMER, "max_seq_length", Obeyed,
        "Where a text is cut. It replaces `model_max_length` of `tokenizer_config.json`, even if \
         larger. Where it is more than the model has positions, those are the limit."),
    key(TRANSFORMER, "do_lower_case", Obeyed,
        "Texts are put into lower case before the tokenizer sees them."),
    key(TRANSFORMER, "tokenizer_name_or_path", Refused, "A tokenizer from another place."),
    key(TRANSFORMER, "transformer_task", Obeyed,
        "`feature-extraction`, `sequence-classification`, `text-generation`; others are refused."),
    key(TRANSFORMER, "modality_config", Obeyed,
        "What is taken of the transformer. Anything but the hidden states of texts, or the logits \
         of a cross-encoder, is refused; so is a chat template for an embedding model \
         (`message`). Pictures and sounds are no input here."),
    key(TRANSFORMER, "module_output_name", Obeyed,
        "The name of the transformer's output. Anything but the one that belongs to \
         `transformer_task` is refused."),
    key(TRANSFORMER, "processing_kwargs", Obeyed,
        "`text.max_length` cuts, before all other lengths; `text.truncation` must be on; the chat \
         template is as the reference's default. Any other argument is refused by name."),
    key(TRANSFORMER, "model_args", Refused,
        "Arguments of loading the weights. Those that choose a type or a place are harmless \
         (`precision` and `device` say it here); any other is refused by name."),
    key(TRANSFORMER, "model_kwargs", Refused, "The new name of `model_args`."),
    key(TRANSFORMER, "tokenizer_args", Obeyed,
        "`model_max_length` goes before `max_seq_length`. Arguments that change no ids are \
         harmless; any other is refused by name: write it into `tokenizer_config.json`."),
    key(TRANSFORMER, "processor_kwargs", Obeyed, "The new name of `tokenizer_args`."),
    key(TRANSFORMER, "config_args", Refused,
        "Values that go before those of `config.json`. All that changes a vector is refused by \
         name: write it into `config.json`."),
    key(TRANSFORMER, "config_kwargs", Refused, "The new name of `config_args`."),
    key(TRANSFORMER, "query_length", Refused, "Another length for queries."),
    key(TRANSFORMER, "document_length", Refused, "Another length for documents."),
    key(TRANSFORMER, "query_expansion", Refused, "ColBERT's filling of queries with `[MASK]`."),
    key(TRANSFORMER, "unpad_inputs", Harmless,
        "How the reference batches texts. There is no padding here."),
    key(TRANSFORMER, "backend", Harmless, "The reference sets it itself."),

    key(POOLING, "pooling_mode", Obeyed,
        "`cls`, `mean`, `lasttoken`; `mean_sqrt_len_tokens` points where `mean` does, and is \
         computed as that where no Dense follows. `max`, `weightedmean` and several at once are \
         refused. It goes before the old keys."),
    key(POOLING, "pooling_mode_cls_token", Obeyed,
        "The old form of `cls`. Where no mode is named, the reference takes the mean, and so do \
         we."),
    key(POOLING, "pooling_mode_mean_tokens", Obeyed, "The old form of `mean`."),
    key(POOLING, "pooling_mode_mean_sqrt_len_tokens", Obeyed,
        "The old form of `mean_sqrt_len_tokens`."),
    key(POOLING, "pooling_mode_lasttoken", Obeyed, "The old form of `lasttoken`."),
    key(POOLING, "pooling_mode_max_tokens", Refused, "The old form of `max`; harmless if false."),
    key(POOLING, "pooling_mode_weightedmean_tokens", Refused,
        "The old form of `weightedmean`; harmless if false."),
    key(POOLING, "include_prompt", Obeyed, "Whether the tokens of a prompt count."),
    key(POOLING, "embedding_dimension", Harmless,
        "A number that the reference reports, and never compares with the model: the model's own \
         width counts."),
    key(POOLING, "word_embedding_dimension", Harmless, "The old name of `embedding_dimension`."),

    key(DENSE, "in_features", Obeyed, "Values in."),
    key(DENSE, "out_features", Obeyed, "Values out."),
    key(DENSE, "bias", Obeyed, "Whether there is a bias; true if absent."),
    key(DENSE, "activation_function", Obeyed,
        "Identity, Tanh, ReLU, GELU, SiLU, Sigmoid of `torch.nn`; Tanh if absent. Any other is \
         refused, also one that the reference replaces by Tanh with a warning."),
    key(DENSE, "use_residual", Obeyed, "Whether the input is added to the output."),
    key(DENSE, "module_input_name", Refused,
        "Anything but `sentence_embedding`: a layer per token."),
    key(DENSE, "module_output_name", Refused, "Anything but `sentence_embedding`."),
    key(DENSE, "init_weight", Harmless, "Replaced by the weights."),
    key(DENSE, "init_bias", Harmless, "Replaced by the weights."),

    key(NORMALIZE, "module_input_name", Refused,
        "Anything but `sentence_embedding`: vectors per token. Without a Normalize the reference \
         gives vectors of any length; here all have length 1, and the cosine is the same."),
    key(NORMALIZE, "module_output_name", Refused, "Anything but `sentence_embedding`."),

    key(DROPOUT, "dropout", Harmless, "Nothing is dropped when a text is embedded."),

    key(LOGIT_SCORE, "true_token_id", Obeyed, "The score is the logit of this token,"),
    key(LOGIT_SCORE, "false_token_id", Obeyed, "less that of this one, if given."),
    key(LOGIT_SCORE, "module_input_name", Refused, "Anything but `causal_logits`."),

    key(ADAPTER, "peft_type", Refused,
        "The file itself: an adapter is no model. Merge it into its base model."),
];
