//! `Class`: the tokenizer class of transformers that a model's files name, and what it makes of a
//! `tokenizer.json`. Most classes use the file as it is. A few use only its vocabulary and build
//! everything else from `tokenizer_config.json`. If the two files then contradict each other, the
//! class decides, as in transformers 5.24.0 (`models/*/tokenization_*.py` there).

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::json::{TokenizerJson, Vocab};
use crate::error::Result;
use crate::json::Json;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// `TokenizersBackend`, `PreTrainedTokenizerFast`, and names that transformers does not know:
    /// the file is used as it is.
    AsIs,
    Bert,
    /// Like `Bert`, without token types.
    DistilBert,
    XlmRoberta,
    Roberta,
    Qwen2,
}

/// The special tokens around a text, or around two.
pub(super) enum Post {
    /// According to the file, or in the same JSON form.
    Json(Value),
    /// BERT's: the names of the first and the last special token.
    Bert(String, String),
    /// XLM-RoBERTa's, by name.
    XlmRoberta(String, String),
    /// RoBERTa's, by name.
    Roberta(String, String),
}

/// Classes of transformers 5.24.0 that build their own tokenizer, or are written in Python. They
/// are not supported.
const OTHERS: [&str; 79] = [
    "AlbertTokenizer",
    "BarthezTokenizer",
    "BartphoTokenizer",
    "BertGenerationTokenizer",
    "BertJapaneseTokenizer",
    "BertweetTokenizer",
    "BigBirdTokenizer",
    "BioGptTokenizer",
    "BlenderbotSmallTokenizer",
    "BlenderbotTokenizer",
    "ByT5Tokenizer",
    "CLIPTokenizer",
    "CTRLTokenizer",
    "CamembertTokenizer",
    "CanineTokenizer",
    "ClvpTokenizer",
    "CodeLlamaTokenizer",
    "CohereTokenizer",
    "CpmAntTokenizer",
    "CpmTokenizer",
    "DPRQuestionEncoderTokenizer",
    "DebertaTokenizer",
    "DebertaV2Tokenizer",
    "DiaTokenizer",
    "EsmTokenizer",
    "EsmcTokenizer",
    "FNetTokenizer",
    "FSMTTokenizer",
    "FlaubertTokenizer",
    "FunnelTokenizer",
    "GPT2Tokenizer",
    "GPTNeoXJapaneseTokenizer",
    "GPTNeoXTokenizer",
    "GPTSw3Tokenizer",
    "GemmaTokenizer",
    "HerbertTokenizer",
    "LasrTokenizer",
    "LayoutLMv2Tokenizer",
    "LayoutLMv3Tokenizer",
    "LayoutXLMTokenizer",
    "LlamaTokenizer",
    "LukeTokenizer",
    "M2M100Tokenizer",
    "MBart50Tokenizer",
    "MBartTokenizer",
    "MLukeTokenizer",
    "MPNetTokenizer",
    "MarianTokenizer",
    "MarkupLMTokenizer",
    "MgpstrTokenizer",
    "MyT5Tokenizer",
    "NllbTokenizer",
    "NougatTokenizer",
    "OpenAIGPTTokenizer",
    "PLBartTokenizer",
    "ParakeetTokenizer",
    "PegasusTokenizer",
    "PerceiverTokenizer",
    "PhobertTokenizer",
    "ProphetNetTokenizer",
    "Qwen3_5Tokenizer",
    "RagTokenizer",
    "ReformerTokenizer",
    "RemBertTokenizer",
    "RoCBertTokenizer",
    "RoFormerTokenizer",
    "SeamlessM4TTokenizer",
    "Siglip2Tokenizer",
    "SiglipTokenizer",
    "SplinterTokenizer",
    "T5Tokenizer",
    "TapasTokenizer",
    "Tipsv2Tokenizer",
    "UdopTokenizer",
    "VideoPrismTokenizer",
    "VitsTokenizer",
    "WhisperTokenizer",
    "XGLMTokenizer",
    "XLNetTokenizer",
];

/// The regular expression that splits text into words for Qwen2's tokenizer.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl Class {
    /// The class that `AutoTokenizer` selects, given `tokenizer_config.json` and `config.json`.
    pub(super) fn of(config: &Json, model: Option<&Json>) -> Result<Self> {
        let from_model = |key| model.map_or(Ok(None), |json: &Json| json.string(key));
        let named = match config.string("tokenizer_class")? {
            Some(name) => Some(name),
            None => from_model("tokenizer_class")?,
        };
        let registered = match from_model("model_type")?.unwrap_or("bert") {
            // The files of these models are known to name a wrong class, so transformers ignores
            // it.
            "modernbert" => return Ok(Self::AsIs),
            "qwen2" => return Ok(Self::Qwen2),
            "bert" => Self::Bert,
            "xlm-roberta" | "gte" => Self::XlmRoberta,
            "roberta" => Self::Roberta,
            "qwen3" => Self::Qwen2,
            _ => Self::AsIs,
        };
        let Some(name) = named else { return Ok(registered) };
        match name.strip_suffix("Fast").unwrap_or(name) {
            "BertTokenizer" | "ElectraTokenizer" | "MobileBertTokenizer" | "LxmertTokenizer" => Ok(Self::Bert),
            "DistilBertTokenizer" => Ok(Self::DistilBert),
            "XLMRobertaTokenizer" => Ok(Self::XlmRoberta),
            "RobertaTokenizer" | "BartTokenizer" | "LEDTokenizer" | "MvpTokenizer" => Ok(Self::Roberta),
            "Qwen2Tokenizer" => Ok(Self::Qwen2),
            other if OTHERS.contains(&other) => Err(config.unsupported(
                "tokenizer_class",
                &format!("{name:?}"),
                "BertTokenizer, XLMRobertaTokenizer, RobertaTokenizer, Qwen2Tokenizer, and PreTrainedTokenizerFast, \
                 which takes tokenizer.json as it is",
            )),
            _ => Ok(Self::AsIs),
        }
    }

    /// The special tokens of the class if the files name none.
    pub(super) fn defaults(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::AsIs => &[],
            Self::Bert | Self::DistilBert => &[
                ("unk_token", "[UNK]"),
                ("sep_token", "[SEP]"),
                ("pad_token", "[PAD]"),
                ("cls_token", "[CLS]"),
                ("mask_token", "[MASK]"),
            ],
            Self::XlmRoberta | Self::Roberta => &[
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("unk_token", "<unk>"),
                ("sep_token", "</s>"),
                ("pad_token", "<pad>"),
                ("cls_token", "<s>"),
                ("mask_token", "<mask>"),
            ],
            Self::Qwen2 => {
                &[("eos_token", "<|endoftext|>"), ("unk_token", "<|endoftext|>"), ("pad_token", "<|endoftext|>")]
            }
        }
    }

    /// The special tokens that the class requires.
    pub(super) fn needed(self) -> &'static [&'static str] {
        match self {
            Self::AsIs | Self::Qwen2 => &[],
            Self::Bert | Self::DistilBert => &["unk_token", "cls_token", "sep_token"],
            Self::XlmRoberta => &["bos_token", "eos_token"],
            Self::Roberta => &["cls_token", "sep_token"],
        }
    }

    /// Whether the class passes token types to the model if `model_input_names` is missing.
    pub(super) fn has_types(self) -> bool {
        self == Self::Bert
    }

    /// Changes `json` to what the class makes of it, given the names of special tokens and
    /// `tokenizer_config.json`.
    pub(super) fn rebuild<'t>(
        self,
        json: &mut TokenizerJson<'_>,
        config: &Json,
        token: impl Fn(&str) -> Option<&'t str>,
    ) -> Result<Post> {
        let name = |key: &str| token(key).unwrap_or_default().to_owned();
        let flag = |key: &str, default: bool| config.flag(key).map(|flag| flag.unwrap_or(default));
        let kind = json.model.kind().unwrap_or_default();
        let expected = match self {
            Self::AsIs => kind,
            Self::Bert | Self::DistilBert => "WordPiece",
            Self::XlmRoberta => "Unigram",
            Self::Roberta | Self::Qwen2 => "BPE",
        };
        if kind != expected && !kind.is_empty() {
            let found = format!("a class for a {expected}, but tokenizer.json contains a {kind}");
            return Err(config.unsupported("tokenizer_class", &found, "PreTrainedTokenizerFast for this file"));
        }
        let (options, post) = match self {
            Self::AsIs => return Ok(Post::Json(std::mem::take(&mut json.post_processor))),
            Self::Bert | Self::DistilBert => {
                json.normalizer = json!({
                    "type": "BertNormalizer",
                    "clean_text": true,
                    "handle_chinese_chars": flag("tokenize_chinese_chars", true)?,
                    "strip_accents": config.flag("strip_accents")?,
                    "lowercase": flag("do_lower_case", true)?,
                });
                json.pre_tokenizer = json!({ "type": "BertPreTokenizer" });
                json.decoder = json!({ "type": "WordPiece", "prefix": "##", "cleanup": true });
                let options = json!({
                    "type": "WordPiece",
                    "unk_token": name("unk_token"),
                    "continuing_subword_prefix": "##",
                    "max_input_chars_per_word": 100,
                });
                (options, Post::Bert(name("cls_token"), name("sep_token")))
            }
            Self::XlmRoberta => {
                // Only the map of characters remains of the normalizer.
                let parts = match json.normalizer.get_mut("normalizers").and_then(Value::as_array_mut) {
                    Some(parts) => std::mem::take(parts),
                    None => vec![json.normalizer.take()],
                };
                let map = parts.into_iter().find(|part| part["type"] == "Precompiled");
                json.normalizer = map.unwrap_or_default();
                let scheme = if flag("add_prefix_space", true)? { "always" } else { "never" };
                let metaspace =
                    json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true });
                json.pre_tokenizer =
                    json!({ "type": "Sequence", "pretokenizers": [{ "type": "WhitespaceSplit" }, metaspace] });
                json.decoder = metaspace;
                let options = json!({ "type": "Unigram", "unk_id": 3, "byte_fallback": false, EXACT: true });
                (options, Post::XlmRoberta(name("bos_token"), name("eos_token")))
            }
            Self::Roberta => {
                json.normalizer = Value::Null;
                let space = flag("add_prefix_space", false)?;
                let bytes =
                    json!({ "type": "ByteLevel", "add_prefix_space": space, "trim_offsets": true, "use_regex": true });
                json.pre_tokenizer = bytes.clone();
                json.decoder = bytes;
                let options = json!({ "type": "BPE", "continuing_subword_prefix": "", "end_of_word_suffix": "" });
                (options, Post::Roberta(name("cls_token"), name("sep_token")))
            }
            Self::Qwen2 => {
                json.normalizer = json!({ "type": "NFC" });
                let space = flag("add_prefix_space", false)?;
                let bytes =
                    json!({ "type": "ByteLevel", "add_prefix_space": space, "trim_offsets": true, "use_regex": false });
                let split =
                    json!({ "type": "Split", "pattern": { "Regex": QWEN2 }, "behavior": "Isolated", "invert": false });
                json.pre_tokenizer = json!({ "type": "Sequence", "pretokenizers": [split, bytes] });
                json.decoder = bytes;
                let options = json!({ "type": "BPE", "continuing_subword_prefix": "", "end_of_word_suffix": "" });
                (options, Post::Json(json.post_processor.take()))
            }
        };
        json.model.options = match options {
            Value::Object(options) => options,
            _ => Map::new(),
        };
        Ok(post)
    }
}

/// An option of a Unigram: scores are parsed exactly, to the last bit, as in Python, and unlike in
/// the crate.
pub(super) const EXACT: &str = "exact";

/// The tokenizer.json for a `vocab.txt`, which has one token per line. A token that occurs twice
/// has the later id.
pub(super) fn from_vocab(vocab: &[u8]) -> std::result::Result<TokenizerJson<'_>, String> {
    let mut names = Vec::new();
    if !vocab.is_empty() {
        for (id, line) in (0..).zip(vocab.strip_suffix(b"\n").unwrap_or(vocab).split(|&b| b == b'\n')) {
            let line = std::str::from_utf8(line).map_err(|_| format!("line {} is not UTF-8", id + 1))?;
            names.push((Cow::Borrowed(line.trim_end()), id));
        }
    }
    let mut json = TokenizerJson::default();
    json.model.vocab = Vocab::Names(names);
    json.model.options.insert("type".into(), "WordPiece".into());
    Ok(json)
}
