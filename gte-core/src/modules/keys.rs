//! Every key that sentence-transformers 6.2.0 reads from `modules.json` and from the files of
//! modules, and how it is treated here. `docs/model-files.md` shows this table.

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
        "The last part of the class name determines the module: Transformer, Pooling, Dense, \
         Normalize, Dropout, LogitScore, with their old and their new paths. Any other is refused \
         by name, as is a class outside `sentence_transformers`, which is code in the repository."),
    key(MODULES, "path", Obeyed,
        "The module's folder: empty, `1_Pooling`, `./1_Pooling`, `0_Transformer/`. The \
         transformer's `config.json`, tokenizer and weights are read only from its \
         folder. A path outside the directory is refused."),
    key(MODULES, "name", Refused,
        "Refused if two modules have the same name, because the reference drops one of them. \
         Otherwise only a label."),
    key(MODULES, "idx", Harmless,
        "Not read by the reference either: modules run in the order of the list."),
    key(MODULES, "kwargs", Harmless,
        "Names of arguments of `encode` that are passed to the module. Texts have none."),

    key(MODEL, "prompts", Obeyed,
        "Prompts by name. `query` and `document` always exist, and are empty unless given."),
    key(MODEL, "default_prompt_name", Obeyed,
        "The prompt for texts without a chosen prompt. A name that is not in `prompts` is \
         refused."),
    key(MODEL, "truncate_dim", Obeyed,
        "Vectors are truncated to this many values; ours then have length 1 again."),
    key(MODEL, "model_type", Obeyed,
        "`SentenceTransformer` or `CrossEncoder`; others are refused."),
    key(MODEL, "similarity_fn_name", Refused,
        "`dot`, `euclidean` and `manhattan` compare lengths, so they are refused for a model \
         without a Normalize: vectors have length 1 here. Other values only say how the caller \
         compares vectors."),
    key(MODEL, "activation_fn", Harmless,
        "A cross-encoder's score is what the caller requests: the logit, or its sigmoid, which is \
         the default here and in the reference. Both give the same order."),
    key(MODEL, "keep_in_fp32_modules", Harmless,
        "Which layers stay in f32 if others do not; here `precision` decides."),
    key(MODEL, "max_active_dims", Harmless, "For a SparseEncoder, which `model_type` refuses."),
    key(MODEL, "requirements", Harmless, "Versions of Python packages."),
    key(MODEL, "__version__", Harmless,
        "The versions that wrote the model; the reference warns if they are newer than its own."),

    key(TRANSFORMER, "max_seq_length", Obeyed,
        "The length at which a text is truncated. It replaces `model_max_length` of \
         `tokenizer_config.json`, even if it is larger. The model's positions are the maximum."),
    key(TRANSFORMER, "do_lower_case", Obeyed,
        "Texts are converted to lower case before they are tokenized."),
    key(TRANSFORMER, "tokenizer_name_or_path", Refused, "A tokenizer from elsewhere."),
    key(TRANSFORMER, "transformer_task", Obeyed,
        "`feature-extraction`, `sequence-classification`, `text-generation`; others are refused."),
    key(TRANSFORMER, "modality_config", Obeyed,
        "The output of the transformer. Anything but the hidden states of texts, or the logits \
         of a cross-encoder, is refused; so is a chat template for an embedding model \
         (`message`). Images and sounds are not supported."),
    key(TRANSFORMER, "module_output_name", Obeyed,
        "The name of the transformer's output. Anything but the one that belongs to \
         `transformer_task` is refused."),
    key(TRANSFORMER, "processing_kwargs", Obeyed,
        "`text.max_length` truncates, and takes precedence over all other lengths; \
         `text.truncation` must be on; the chat template is the reference's default. Any other \
         argument is refused by name."),
    key(TRANSFORMER, "model_args", Refused,
        "Arguments for loading the weights. Those that choose a type or a device are harmless \
         (here `precision` and `device` decide); any other is refused by name."),
    key(TRANSFORMER, "model_kwargs", Refused, "The new name of `model_args`."),
    key(TRANSFORMER, "tokenizer_args", Obeyed,
        "`model_max_length` takes precedence over `max_seq_length`. Arguments that do not change \
         ids are harmless; any other is refused by name: write it into `tokenizer_config.json`."),
    key(TRANSFORMER, "processor_kwargs", Obeyed, "The new name of `tokenizer_args`."),
    key(TRANSFORMER, "config_args", Refused,
        "Values that override those of `config.json`. Any value that would change a vector is \
         refused by name: write it into `config.json`."),
    key(TRANSFORMER, "config_kwargs", Refused, "The new name of `config_args`."),
    key(TRANSFORMER, "query_length", Refused, "Another length for queries."),
    key(TRANSFORMER, "document_length", Refused, "Another length for documents."),
    key(TRANSFORMER, "query_expansion", Refused, "ColBERT's filling of queries with `[MASK]`."),
    key(TRANSFORMER, "unpad_inputs", Harmless,
        "How the reference batches texts. There is no padding here."),
    key(TRANSFORMER, "backend", Harmless, "The reference sets it itself."),

    key(POOLING, "pooling_mode", Obeyed,
        "`cls`, `mean`, `lasttoken`; `mean_sqrt_len_tokens` has the direction of `mean`, and \
         is computed like it unless a Dense follows. `max`, `weightedmean` and several modes are \
         refused. It takes precedence over the old keys."),
    key(POOLING, "pooling_mode_cls_token", Obeyed,
        "The old form of `cls`. If no mode is named, the reference uses the mean, and so does \
         this engine."),
    key(POOLING, "pooling_mode_mean_tokens", Obeyed, "The old form of `mean`."),
    key(POOLING, "pooling_mode_mean_sqrt_len_tokens", Obeyed,
        "The old form of `mean_sqrt_len_tokens`."),
    key(POOLING, "pooling_mode_lasttoken", Obeyed, "The old form of `lasttoken`."),
    key(POOLING, "pooling_mode_max_tokens", Refused, "The old form of `max`; harmless if false."),
    key(POOLING, "pooling_mode_weightedmean_tokens", Refused,
        "The old form of `weightedmean`; harmless if false."),
    key(POOLING, "include_prompt", Obeyed, "Whether the tokens of a prompt are pooled."),
    key(POOLING, "embedding_dimension", Harmless,
        "A number that the reference reports, but never compares with the model. The model's own \
         width counts."),
    key(POOLING, "word_embedding_dimension", Harmless, "The old name of `embedding_dimension`."),

    key(DENSE, "in_features", Obeyed, "Number of inputs."),
    key(DENSE, "out_features", Obeyed, "Number of outputs."),
    key(DENSE, "bias", Obeyed, "Whether there is a bias. Default: true."),
    key(DENSE, "activation_function", Obeyed,
        "Identity, Tanh, ReLU, GELU, SiLU, Sigmoid of `torch.nn`. Default: Tanh. Any other is \
         refused, even if the reference replaces it by Tanh with a warning."),
    key(DENSE, "use_residual", Obeyed, "Whether the input is added to the output."),
    key(DENSE, "module_input_name", Refused,
        "Anything but `sentence_embedding`: a layer per token."),
    key(DENSE, "module_output_name", Refused, "Anything but `sentence_embedding`."),
    key(DENSE, "init_weight", Harmless, "Replaced by the weights."),
    key(DENSE, "init_bias", Harmless, "Replaced by the weights."),

    key(NORMALIZE, "module_input_name", Refused,
        "Anything but `sentence_embedding`: vectors per token. Without a Normalize, vectors of the \
         reference have any length; here all have length 1, and their cosines are the same."),
    key(NORMALIZE, "module_output_name", Refused, "Anything but `sentence_embedding`."),

    key(DROPOUT, "dropout", Harmless, "Nothing is dropped when a text is embedded."),

    key(LOGIT_SCORE, "true_token_id", Obeyed, "The score is the logit of this token …"),
    key(LOGIT_SCORE, "false_token_id", Obeyed, "… minus that of this token, if given."),
    key(LOGIT_SCORE, "module_input_name", Refused, "Anything but `causal_logits`."),

    key(ADAPTER, "peft_type", Refused,
        "The file itself: an adapter is not a model. Merge it into its base model."),
];
