//! The model that splits words into tokens: one of the crate's models, or our own Unigram, built
//! from a vocabulary that is borrowed from its file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ahash::AHashMap;
use serde_json::{Map, Value};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::BPE;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::{
    DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Token, TokenizerImpl,
};

use super::class::EXACT;
use super::json::{Model as Json, Vocab};
use super::unigram::Unigram;

/// The crate's tokenizer with a model.
pub(super) type Pipeline<M = Model> =
    TokenizerImpl<M, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

#[derive(Clone)]
pub(super) enum Model {
    Crate(Arc<ModelWrapper>),
    Unigram(Arc<Unigram>),
}

impl Model {
    pub(super) fn new(json: &Json<'_>) -> Result<Self, String> {
        let options = ModelKeys(&json.options);
        let failed = |e: tokenizers::Error| e.to_string();
        let names = || match &json.vocab {
            Vocab::Names(names) => {
                Ok(names.iter().map(|(name, id)| (name.to_string(), *id)).collect::<AHashMap<_, _>>())
            }
            Vocab::Pieces(_) => Err("its `vocab` is a list, expected an object of names and ids".to_owned()),
            Vocab::Missing => Err("its model has no `vocab`".to_owned()),
        };
        let model: ModelWrapper = match json.kind() {
            Some("WordPiece") => WordPiece::builder()
                .vocab(names()?)
                .unk_token(options.needed("unk_token")?)
                .continuing_subword_prefix(options.needed("continuing_subword_prefix")?)
                .max_input_chars_per_word(options.size("max_input_chars_per_word")?)
                .build()
                .map_err(failed)?
                .into(),
            Some("BPE") => {
                if json.options.get("dropout").is_some_and(|p| !p.is_null() && p.as_f64() != Some(0.0)) {
                    return Err("`model.dropout` splits words at random, supported: null".into());
                }
                let merges = json.merges.iter().flatten().map(|(a, b)| (a.to_string(), b.to_string())).collect();
                let mut builder = BPE::builder()
                    .vocab_and_merges(names()?, merges)
                    .fuse_unk(options.flag("fuse_unk")?)
                    .byte_fallback(options.flag("byte_fallback")?)
                    .ignore_merges(options.flag("ignore_merges")?);
                if let Some(token) = options.string("unk_token")? {
                    builder = builder.unk_token(token);
                }
                if let Some(prefix) = options.string("continuing_subword_prefix")? {
                    builder = builder.continuing_subword_prefix(prefix);
                }
                if let Some(suffix) = options.string("end_of_word_suffix")? {
                    builder = builder.end_of_word_suffix(suffix);
                }
                if json.merges.is_none() {
                    return Err("its model has no `merges`".into());
                }
                builder.build().map_err(failed)?.into()
            }
            Some("WordLevel") => {
                let builder = WordLevel::builder().vocab(names()?).unk_token(options.needed("unk_token")?);
                builder.build().map_err(failed)?.into()
            }
            Some("Unigram") => {
                let Vocab::Pieces(pieces) = &json.vocab else {
                    return Err("its `vocab` is not a list of pieces and scores".into());
                };
                let exact = json.options.contains_key(EXACT);
                let mut scored = Vec::with_capacity(pieces.len());
                for (piece, score) in pieces {
                    // The crate's parser is sometimes off by one bit, and its ids depend on that if
                    // two ways to split a word are equally good.
                    let read = if exact { score.parse().ok() } else { serde_json::from_str::<f64>(score).ok() };
                    let score = read.filter(|score| score.is_finite());
                    scored.push((piece.as_ref(), score.ok_or_else(|| format!("the piece {piece:?} has no score"))?));
                }
                let unknown = match json.options.get("unk_id") {
                    None | Some(Value::Null) => None,
                    Some(id) => Some(id.as_u64().ok_or_else(|| format!("`unk_id` is {id}, expected an id"))? as usize),
                };
                let byte_fallback = options.flag("byte_fallback")?;
                return Ok(Self::Unigram(Arc::new(Unigram::new(scored.iter().copied(), unknown, byte_fallback)?)));
            }
            Some(other) => {
                return Err(format!("its model is a {other}, supported: WordPiece, Unigram, BPE, WordLevel"));
            }
            None => return Err("there is no model, or it has no type".into()),
        };
        Ok(Self::Crate(Arc::new(model)))
    }
}

impl Model {
    /// The name of a WordPiece's token for unknown words.
    pub(super) fn unknown(&self) -> Option<&str> {
        match self {
            Self::Crate(model) => match &**model {
                ModelWrapper::WordPiece(model) => Some(&model.unk_token),
                _ => None,
            },
            Self::Unigram(_) => None,
        }
    }
}

/// The keys of a model.
struct ModelKeys<'a>(&'a Map<String, Value>);

impl ModelKeys<'_> {
    fn typed<T>(&self, key: &str, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>, String> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match read(value) {
                Some(value) => Ok(Some(value)),
                None => Err(format!("`model.{key}` is {value}, expected {expected}")),
            },
        }
    }

    fn string(&self, key: &str) -> Result<Option<String>, String> {
        self.typed(key, "a string", |value| value.as_str().map(str::to_owned))
    }

    fn needed(&self, key: &str) -> Result<String, String> {
        self.string(key)?.ok_or_else(|| format!("`model.{key}` is missing"))
    }

    fn flag(&self, key: &str) -> Result<bool, String> {
        Ok(self.typed(key, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    fn size(&self, key: &str) -> Result<usize, String> {
        let size = self.typed(key, "a count", Value::as_u64)?;
        size.map(|size| size as usize).ok_or_else(|| format!("`model.{key}` is missing"))
    }
}

impl tokenizers::Model for Model {
    type Trainer = TrainerWrapper;

    fn tokenize(&self, text: &str) -> tokenizers::Result<Vec<Token>> {
        match self {
            Self::Crate(model) => model.tokenize(text),
            Self::Unigram(model) => model.tokenize(text),
        }
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        match self {
            Self::Crate(model) => model.token_to_id(token),
            Self::Unigram(model) => model.token_to_id(token),
        }
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        match self {
            Self::Crate(model) => model.id_to_token(id),
            Self::Unigram(model) => model.id_to_token(id),
        }
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        match self {
            Self::Crate(model) => model.get_vocab(),
            Self::Unigram(model) => model.get_vocab(),
        }
    }

    fn get_vocab_size(&self) -> usize {
        match self {
            Self::Crate(model) => model.get_vocab_size(),
            Self::Unigram(model) => model.get_vocab_size(),
        }
    }

    fn save(&self, folder: &Path, prefix: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        match self {
            Self::Crate(model) => model.save(folder, prefix),
            Self::Unigram(model) => model.save(folder, prefix),
        }
    }

    fn get_trainer(&self) -> TrainerWrapper {
        match self {
            Self::Crate(model) => model.get_trainer(),
            Self::Unigram(model) => model.get_trainer(),
        }
    }
}
