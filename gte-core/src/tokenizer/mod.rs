//! `Tokenizer`: text to token ids, counted and cut. The crate `tokenizers` says what they are; `wordpiece.rs` and `sentencepiece.rs` find
//! those of BERT and XLM-RoBERTa faster. `settings.rs` reads what a model's files say beside `tokenizer.json`. This file puts the parts
//! together, and keeps truncation and templates in its own hands, so that a cut is never silent.

mod class;
mod json;
mod keys;
mod model;
mod names;
mod sentencepiece;
mod settings;
mod template;
mod tokens;
mod unigram;
mod wordpiece;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use rayon::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokenizers::{
    AddedToken, Decoder, DecoderWrapper, Encoding, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
};

#[cfg(test)]
pub(crate) use self::keys::KEYS;
pub use self::tokens::{Piece, TokenizeOptions, Tokens, TruncationSide};

use self::class::{Post, from_vocab};
use self::json::{TokenizerJson, Vocab};
use self::model::{Model, Pipeline};
use self::sentencepiece::SentencePiece;
use self::settings::Settings;
use self::template::Template;
use self::wordpiece::WordPiece;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::files::ModelFiles;

/// Text to token ids, as the model's own tokenizer gives them.
#[derive(Clone)]
pub struct Tokenizer {
    pipeline: Arc<Pipeline>,
    fast: Option<Arc<Fast>>,
    names: Arc<HashMap<u32, String>>, // of ids that several entries of the vocabulary share: the one that they are decoded to
    single: Template<1>,
    pair: Result<Template<2>, String>, // or why it makes none
    special: Arc<[u32]>,               // ids of the special tokens that have a name or are listed as such
    #[allow(dead_code, reason = "for sparse heads, which are to come")]
    unused_in_sparse: Arc<[u32]>,
    truncation_side: TruncationSide,
    max_length: usize,
}

/// A way of our own, which may decline a text.
enum Fast {
    WordPiece(WordPiece),
    SentencePiece(SentencePiece),
}

impl Tokenizer {
    /// Reads `tokenizer.json`, where there is none `vocab.txt`, and the files beside it that say how a text is cut into tokens: with the
    /// precedence of transformers, where several speak of one thing.
    ///
    /// # Errors
    /// [`Error::MissingFile`] where there is neither; [`Error::InvalidFile`] for malformed ones, and for a vocabulary that is
    /// larger than the model's; [`Error::Unsupported`] for a key that asks for what is not done here.
    pub fn read(files: &ModelFiles, config: &ModelConfig) -> Result<Self> {
        Self::open(&files.within(&config.transformer)?, config.vocab, config.max_length)
    }

    /// As [`read`](Self::read), for a model of `vocab` tokens whose texts are cut at `max_length`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn open(files: &ModelFiles, vocab: usize, max_length: usize) -> Result<Self> {
        let (file, content) = match (files.read("tokenizer.json")?, files.read("vocab.txt")?) {
            (Some(json), _) => ("tokenizer.json", json),
            (None, Some(list)) => ("vocab.txt", list),
            (None, None) => {
                return Err(Error::MissingFile {
                    model: files.place(),
                    file: "tokenizer.json".into(),
                    hint: "nor is there a vocab.txt: the model's tokenizer is needed, not just its weights",
                });
            }
        };
        let invalid = |reason: String| Error::invalid(files.label(file), reason);
        let json = if file == "vocab.txt" { from_vocab(&content) } else { TokenizerJson::read(&content) };
        let mut json = json.map_err(invalid)?;
        let settings = Settings::read(files, &mut json)?;
        Self::build(&json, &settings, vocab, max_length).map_err(invalid)
    }

    /// The tokenizer that is made of `json`, for a model of `vocab` tokens.
    fn build(json: &TokenizerJson<'_>, settings: &Settings, vocab: usize, max_length: usize) -> Result<Self, String> {
        // The crate panics on some malformed files (found by fuzzing): a template that names a token which it does not define, a map of
        // characters that points nowhere. What it was building is dropped with the panic.
        let build = || Self::build_inner(json, settings, vocab, max_length);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(build))
            .unwrap_or_else(|_| Err("it contradicts itself".into()))
    }

    fn build_inner(
        json: &TokenizerJson<'_>,
        settings: &Settings,
        vocab: usize,
        max_length: usize,
    ) -> Result<Self, String> {
        let too_large = |(token, id): (&str, u32)| {
            format!("token `{token}` has id {id}, but config.json has a vocabulary of {vocab}")
        };
        if let Some(entry) = json.model.vocab.entries().find(|(_, id)| *id as usize >= vocab) {
            return Err(too_large(entry));
        }
        let mut pipeline = Pipeline::new(Model::new(&json.model)?);
        pipeline
            .with_normalizer(part::<NormalizerWrapper>(&json.normalizer, "normalizer")?)
            .map_err(|e| e.to_string())?;
        pipeline.with_pre_tokenizer(part::<PreTokenizerWrapper>(&json.pre_tokenizer, "pre_tokenizer")?);
        pipeline.with_decoder(part::<DecoderWrapper>(&json.decoder, "decoder")?);
        let (listed, rest) = settings.added.split_at(settings.listed);
        pipeline.add_tokens(listed.iter().cloned()).map_err(|e| e.to_string())?;
        let added = pipeline.get_added_vocabulary().get_vocab();
        if let Some((token, &id)) = added.iter().find(|(_, id)| **id as usize >= vocab) {
            return Err(too_large((token, id)));
        }
        let post = post_processor(&settings.post, &pipeline)?;
        add_special(rest, &mut pipeline, vocab)?;
        pipeline.with_post_processor(post);
        pipeline.set_encode_special_tokens(settings.split_special);

        let single = Template::<1>::of(pipeline.get_post_processor(), settings.types)?;
        let pair = Template::<2>::of(pipeline.get_post_processor(), settings.types);
        if let Some(id) = single.special_ids().find(|&id| id as usize >= vocab) {
            return Err(format!("its post-processor adds token {id}, but config.json has a vocabulary of {vocab}"));
        }
        if single.special() >= max_length {
            return Err("its post-processor leaves no room for text".into());
        }
        let fast = match pipeline.get_model() {
            Model::Unigram(unigram) => {
                SentencePiece::of(json, &settings.added, unigram.clone(), pipeline.get_normalizer())
                    .map(Fast::SentencePiece)
            }
            Model::Crate(_) => WordPiece::of(json, &settings.added).map(Fast::WordPiece),
        };
        let id = |token: &AddedToken| pipeline.token_to_id(&token.content);
        let all = settings.named.iter().map(|(_, token)| token).chain(&settings.extra);
        Ok(Self {
            fast: fast.map(Arc::new),
            names: Arc::new(shared_names(&json.model.vocab)),
            special: all.filter_map(id).collect(),
            unused_in_sparse: unused_in_sparse(settings, &pipeline),
            single,
            pair,
            truncation_side: settings.truncation_side,
            max_length,
            pipeline: Arc::new(pipeline),
        })
    }

    /// The longest list of ids that comes out, special tokens included.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Where a text that is too long is cut unless told otherwise: `truncation_side` of the model's files.
    pub fn truncation_side(&self) -> TruncationSide {
        self.truncation_side
    }

    /// The id of an entry of the vocabulary, special and added tokens included.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.pipeline.token_to_id(token)
    }

    /// The entry of the vocabulary with this id, special and added tokens included; of several, the first.
    pub fn token_of(&self, id: u32) -> Option<String> {
        self.names.get(&id).cloned().or_else(|| self.pipeline.id_to_token(id))
    }

    /// Ids of tokens that have no weight in a sparse vector: cls, eos, sep, pad and unk.
    #[allow(dead_code, reason = "for sparse heads, which are to come")]
    pub(crate) fn unused_in_sparse(&self) -> &[u32] {
        &self.unused_in_sparse
    }

    /// Ids of each text, in order; texts are spread over the current thread pool.
    ///
    /// # Errors
    /// [`Error::Tokenize`] with the text's position.
    pub fn encode<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Vec<Tokens>> {
        self.encode_prompted(texts, "", self.truncation_side)
    }

    /// Ids of one text, on this thread.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn encode_one(&self, text: &str) -> Result<Tokens> {
        self.tokens(text, 0, self.truncation_side)
    }

    /// As [`encode_prompted`](Self::encode_prompted), one text on this thread.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn encode_one_prompted(&self, text: &str, prompt: &str, side: TruncationSide) -> Result<Tokens> {
        if prompt.is_empty() {
            return self.tokens(text, 0, side);
        }
        let prompt_len = self.prompt_len(prompt, side)?;
        Ok(Tokens { prompt_len, ..self.tokens(&[prompt, text].concat(), 0, side)? })
    }

    /// As [`encode`](Self::encode), with `prompt` before each text, letter for letter, and a cut at `side`: from the left, the prompt is
    /// the first to go.
    ///
    /// # Errors
    /// [`Error::Tokenize`] with the text's position.
    pub fn encode_prompted<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        prompt: &str,
        side: TruncationSide,
    ) -> Result<Vec<Tokens>> {
        if prompt.is_empty() {
            return texts.par_iter().enumerate().map(|(i, text)| self.tokens(text.as_ref(), i, side)).collect();
        }
        let prompt_len = self.prompt_len(prompt, side)?;
        let prompted = |(i, text): (usize, &S)| {
            let tokens = self.tokens(&[prompt, text.as_ref()].concat(), i, side)?;
            Ok(Tokens { prompt_len, ..tokens })
        };
        texts.par_iter().enumerate().map(prompted).collect()
    }

    /// Ids of each pair, in order, as the model's template puts them together, with the type of each token. A pair of more than
    /// `max_length` tokens loses them at `side` of the longer text, then of both alike: Hugging Face's `longest_first`.
    ///
    /// # Errors
    /// [`Error::Tokenize`] with the pair's position; [`Error::InvalidOption`] if `max_length` has no room for text;
    /// [`Error::Unsupported`] if the model's template takes no pairs.
    pub fn encode_pairs<Q: AsRef<str> + Sync, D: AsRef<str> + Sync>(
        &self,
        pairs: &[(Q, D)],
        max_length: usize,
        side: TruncationSide,
    ) -> Result<Vec<Tokens>> {
        let tokens = |(i, (query, document)): (usize, &(Q, D))| {
            self.encode_pair(query.as_ref(), document.as_ref(), i, max_length, side)
        };
        pairs.par_iter().enumerate().map(tokens).collect()
    }

    /// The tokens of a pair of texts, on this thread. `index` is its position in the input, for errors.
    pub(crate) fn encode_pair(
        &self,
        query: &str,
        document: &str,
        index: usize,
        max_length: usize,
        side: TruncationSide,
    ) -> Result<Tokens> {
        let template = self.pair.as_ref().map_err(|reason| Error::Unsupported {
            file: "tokenizer.json".into(),
            key: "post_processor".into(),
            found: format!("no template of pairs ({reason})"),
            supported: "one that has a place for each of two texts".into(),
        })?;
        if max_length <= template.special() {
            return Err(Error::InvalidOption {
                option: "max_length",
                value: max_length.to_string(),
                expected: format!("more than the {} special tokens of a pair", template.special()),
            });
        }
        let room = max_length - template.special();
        let (query, document) = (self.ids(query, index)?, self.ids(document, index)?);
        let full_len = query.len() + document.len() + template.special();
        let (first, second) = longest_first(query.len(), document.len(), room);
        Ok(template.fill([cut(&query, first, side), cut(&document, second, side)], full_len))
    }

    fn tokens(&self, text: &str, index: usize, side: TruncationSide) -> Result<Tokens> {
        let ids = self.ids(text, index)?;
        let kept = cut(&ids, self.max_length - self.single.special(), side);
        Ok(self.single.fill([kept], ids.len() + self.single.special()))
    }

    /// The ids of a text alone, uncut, without special tokens around it. `index` is its position in the input, for errors.
    pub(crate) fn encode_bare(&self, text: &str, index: usize) -> Result<Vec<u32>> {
        self.ids(text, index)
    }

    /// How many special tokens stand around a text.
    pub(crate) fn special_tokens(&self) -> usize {
        self.single.special()
    }

    /// The ids of a text within the special tokens around it.
    pub(crate) fn filled(&self, ids: &[u32]) -> Tokens {
        self.single.fill([ids], ids.len() + self.single.special())
    }

    /// The ids of a text alone, without special tokens around it.
    fn ids(&self, text: &str, index: usize) -> Result<Vec<u32>> {
        let fast = match self.fast.as_deref() {
            Some(Fast::WordPiece(fast)) => fast.encode(text, &self.pipeline),
            Some(Fast::SentencePiece(fast)) => fast.encode(text, &self.pipeline),
            None => None,
        };
        if let Some(ids) = fast {
            return Ok(ids);
        }
        let encoding = self.pipeline.encode_fast(text, false);
        Ok(encoding.map_err(|e| Error::Tokenize { index, reason: e.to_string() })?.get_ids().to_vec())
    }

    /// How many leading tokens sentence-transformers 6.2.0 takes for those of the prompt (`Transformer._get_prompt_length`): as many as
    /// the prompt alone has, without a special token at their end.
    fn prompt_len(&self, prompt: &str, side: TruncationSide) -> Result<usize> {
        let alone = self.tokens(prompt, 0, side)?;
        let ends = alone.ids.last().is_some_and(|id| self.special.contains(id));
        Ok(alone.len() - usize::from(ends))
    }

    /// The parts of a text, uncut, with their places.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn pieces(&self, text: &str) -> Result<Vec<Piece>> {
        let encoding: Encoding =
            self.pipeline.encode(text, true).map_err(|e| Error::Tokenize { index: 0, reason: e.to_string() })?;
        let places = encoding.get_offsets().iter().zip(encoding.get_special_tokens_mask());
        let tokens = encoding.get_ids().iter().zip(encoding.get_tokens());
        Ok(tokens
            .zip(places)
            .map(|((&id, text), (&(start, stop), &special))| Piece {
                id,
                text: text.clone(),
                special: special == 1,
                start,
                stop,
            })
            .collect())
    }

    /// The text of token ids, near to what they came from: case, accents and spaces that the tokenizer removed are gone, and an id that
    /// several entries of the vocabulary share is the first of them.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let failed = |e: tokenizers::Error| Error::Tokenize { index: 0, reason: e.to_string() };
        if self.names.is_empty() {
            return self.pipeline.decode(ids, skip_special).map_err(failed);
        }
        // As the crate does it, but for the names.
        let special = self.pipeline.get_added_vocabulary();
        let tokens: Vec<String> = ids
            .iter()
            .filter_map(|&id| self.token_of(id))
            .filter(|name| !skip_special || !special.is_special_token(name))
            .collect();
        match self.pipeline.get_decoder() {
            Some(decoder) => decoder.decode(tokens).map_err(failed),
            None => Ok(tokens.join(" ")),
        }
    }
}

/// What is left of `ids` when at most `room` may stay.
fn cut(ids: &[u32], room: usize, side: TruncationSide) -> &[u32] {
    let kept = room.min(ids.len());
    match side {
        TruncationSide::Right => &ids[..kept],
        TruncationSide::Left => &ids[ids.len() - kept..],
    }
}

/// How much of two texts of so many tokens stays in `room`, as the crate cuts (`truncate_encodings` in its `utils/truncation.rs`), told
/// their true lengths, as from Python: alone it stops counting at the cut, so that either may be the longer to it. The longer one is cut down to what the shorter one leaves, and both to one half where even the shorter one
/// has more; of an odd number, the longer one gets one more.
fn longest_first(first: usize, second: usize, room: usize) -> (usize, usize) {
    if first + second <= room {
        return (first, second);
    }
    let shorter = first.min(second).min(room / 2);
    if first > second { (room - shorter, shorter) } else { (shorter, room - shorter) }
}

/// A part of the file, as the crate reads it.
fn part<T: DeserializeOwned>(json: &Value, name: &str) -> Result<Option<T>, String> {
    serde_json::from_value(json.clone()).map_err(|e| format!("`{name}`: {e}"))
}

/// What puts special tokens around a text.
fn post_processor(post: &Post, pipeline: &Pipeline) -> Result<Option<PostProcessorWrapper>, String> {
    let id = |name: &str| {
        pipeline.token_to_id(name).ok_or_else(|| format!("the special token {name} is not in the vocabulary"))
    };
    let special = |name: &str, kind: u32| json!({ "SpecialToken": { "id": name, "type_id": kind } });
    let text = |text: &str, kind: u32| json!({ "Sequence": { "id": text, "type_id": kind } });
    let template = |(first, last): (&str, &str), single: Vec<Value>, pair: Vec<Value>| -> Result<Value, String> {
        let defined = |name: &str| Ok::<_, String>(json!({ "id": name, "ids": [id(name)?], "tokens": [name] }));
        let mut tokens = serde_json::Map::new();
        tokens.insert(first.into(), defined(first)?);
        tokens.insert(last.into(), defined(last)?);
        Ok(json!({ "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens }))
    };
    let json = match post {
        Post::Json(json) => json.clone(),
        Post::Bert(cls, sep) => {
            pipeline.get_model().unknown().map_or(Ok(0), id)?;
            let single = vec![special(cls, 0), text("A", 0), special(sep, 0)];
            let pair = [single.clone(), vec![text("B", 1), special(sep, 1)]].concat();
            template((cls, sep), single, pair)?
        }
        Post::XlmRoberta(bos, eos) => {
            let single = vec![special(bos, 0), text("A", 0), special(eos, 0)];
            let pair = [single.clone(), vec![special(eos, 0), text("B", 0), special(eos, 0)]].concat();
            template((bos, eos), single, pair)?
        }
        Post::Roberta(cls, sep) => json!({
            "type": "RobertaProcessing", "cls": [cls, id(cls)?], "sep": [sep, id(sep)?],
            "trim_offsets": true, "add_prefix_space": false,
        }),
    };
    part(&json, "post_processor")
}

/// Adds special tokens that no list of added tokens has. One that is in no vocabulary gets the next id, as in transformers; where the
/// model has no row for it, it is left out, and its name in a text is text.
fn add_special(tokens: &[AddedToken], pipeline: &mut Pipeline, vocab: usize) -> Result<(), String> {
    let highest = pipeline.get_added_tokens_decoder().into_keys().max().map_or(0, |id| id as usize + 1);
    let mut next = pipeline.get_vocab_size(false).max(highest);
    let mut kept = Vec::new();
    for token in tokens {
        if pipeline.token_to_id(&token.content).is_none() {
            if next >= vocab {
                tracing::warn!(
                    token = token.content,
                    "a special token is in no vocabulary: its name in a text is text"
                );
                continue;
            }
            next += 1;
        }
        kept.push(token.clone());
    }
    pipeline.add_tokens(kept).map(|_| ()).map_err(|e| e.to_string())
}

/// The ids of the special tokens by their names in the settings, else of those that go by the usual names.
fn unused_in_sparse(settings: &Settings, pipeline: &Pipeline) -> Arc<[u32]> {
    const KEYS: [&str; 5] = ["cls_token", "eos_token", "sep_token", "pad_token", "unk_token"];
    const USUAL: [&str; 8] = ["<s>", "</s>", "<pad>", "<unk>", "[CLS]", "[SEP]", "[PAD]", "[UNK]"];
    let named = settings.named.iter().filter(|(key, _)| KEYS.contains(&key.as_str()));
    let mut ids: Vec<u32> = named.filter_map(|(_, token)| pipeline.token_to_id(&token.content)).collect();
    if ids.is_empty() {
        ids = USUAL.iter().filter_map(|name| pipeline.token_to_id(name)).collect();
    }
    ids.sort_unstable();
    ids.dedup();
    ids.into()
}

/// The first name in the file of each id that has several: the crate would pick any of them, another one in each process.
fn shared_names(vocab: &Vocab<'_>) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    let Vocab::Names(entries) = vocab else { return names };
    let mut first: HashMap<u32, &str, ahash::RandomState> =
        HashMap::with_capacity_and_hasher(entries.len(), Default::default());
    for (name, id) in entries {
        match first.entry(*id) {
            Entry::Vacant(place) => _ = place.insert(name),
            Entry::Occupied(place) => _ = names.entry(*id).or_insert_with(|| place.get().to_string()),
        }
    }
    names
}

#[cfg(test)]
mod tests;
