//! `Tokenizer`: turns text into token ids, counts and truncates them. The crate `tokenizers`
//! defines the ids; `wordpiece.rs` and `sentencepiece.rs` compute those of BERT and XLM-RoBERTa
//! faster. `settings.rs` reads the model's files besides `tokenizer.json`. This file puts the parts
//! together, and does truncation and templates itself, so that truncation is never silent.

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

/// Turns text into token ids, as the model's own tokenizer does.
///
/// ```
/// use gte_core::{ModelConfig, ModelFiles, Tokenizer};
///
/// let files = ModelFiles::bundled();
/// let tokenizer = Tokenizer::read(&files, &ModelConfig::read(&files, None)?)?;
/// let tokens = tokenizer.encode_one("How do I return it?")?;
/// assert!(!tokens.truncated());
/// assert_eq!(tokenizer.decode(&tokens.ids, true)?, "how do i return it?");
/// # Ok::<(), gte_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Tokenizer {
    pipeline: Arc<Pipeline>,
    fast: Option<Arc<Fast>>,
    names: Arc<HashMap<u32, String>>, // for ids that several entries of the vocabulary share: the name they are decoded to
    single: Template<1>,
    pair: Result<Template<2>, String>, // or why there is none
    special: Arc<[u32]>,               // ids of special tokens that have a name or are listed as such
    #[allow(dead_code, reason = "for sparse heads, which are to come")]
    unused_in_sparse: Arc<[u32]>,
    truncation_side: TruncationSide,
    max_length: usize,
}

/// Our own fast implementation, which may leave a text to the crate.
enum Fast {
    WordPiece(WordPiece),
    SentencePiece(SentencePiece),
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("max_length", &self.max_length)
            .field("truncation_side", &self.truncation_side)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads `tokenizer.json`, or `vocab.txt` if it does not exist, and the other files that
    /// determine how a text is tokenized. If several files have the same setting, the precedence is
    /// that of transformers.
    ///
    /// # Errors
    /// [`Error::MissingFile`] if neither exists; [`Error::InvalidFile`] for malformed files, and
    /// for a vocabulary larger than the model's; [`Error::Unsupported`] for a key that requires
    /// something that is not supported.
    pub fn read(files: &ModelFiles, config: &ModelConfig) -> Result<Self> {
        Self::open(&files.within(&config.transformer)?, config.vocab, config.max_length)
    }

    /// As [`read`](Self::read), for a model with `vocab` tokens whose texts are truncated at
    /// `max_length`.
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
                    hint: "there is no vocab.txt either: the model's tokenizer is needed, not only its weights",
                });
            }
        };
        let invalid = |reason: String| Error::invalid(files.label(file), reason);
        let json = if file == "vocab.txt" { from_vocab(&content) } else { TokenizerJson::read(&content) };
        let mut json = json.map_err(invalid)?;
        let settings = Settings::read(files, &mut json)?;
        Self::build(&json, &settings, vocab, max_length).map_err(invalid)
    }

    /// The tokenizer for `json` and a model with `vocab` tokens.
    fn build(json: &TokenizerJson<'_>, settings: &Settings, vocab: usize, max_length: usize) -> Result<Self, String> {
        // The crate panics on some malformed files (found by fuzzing): a template that names an
        // undefined token, a map of characters with an invalid offset. The half-built tokenizer is
        // dropped with the panic.
        let build = || Self::build_inner(json, settings, vocab, max_length);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(build))
            .unwrap_or_else(|_| Err("the file contradicts itself".into()))
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

    /// Maximum number of token ids per text, including special tokens.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// The side on which long texts are truncated by default: `truncation_side` in the model's
    /// files.
    pub fn truncation_side(&self) -> TruncationSide {
        self.truncation_side
    }

    /// The id of an entry of the vocabulary, including special and added tokens.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.pipeline.token_to_id(token)
    }

    /// The entry of the vocabulary with this id, including special and added tokens. If several
    /// share it, the first.
    pub fn token_of(&self, id: u32) -> Option<String> {
        self.names.get(&id).cloned().or_else(|| self.pipeline.id_to_token(id))
    }

    /// Ids of tokens without a weight in sparse vectors: cls, eos, sep, pad and unk.
    #[allow(dead_code, reason = "for sparse heads, which are to come")]
    pub(crate) fn unused_in_sparse(&self) -> &[u32] {
        &self.unused_in_sparse
    }

    /// The token ids of each text, in order. Texts are distributed over the current thread pool.
    ///
    /// # Errors
    /// [`Error::Tokenize`] with the text's position.
    pub fn encode<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Vec<Tokens>> {
        self.encode_prompted(texts, "", self.truncation_side)
    }

    /// The token ids of one text, on the calling thread.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn encode_one(&self, text: &str) -> Result<Tokens> {
        self.tokens(text, 0, self.truncation_side)
    }

    /// As [`encode_prompted`](Self::encode_prompted), for one text on the calling thread.
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

    /// As [`encode`](Self::encode), with `prompt` put before each text exactly as it is, and
    /// truncation on `side`. On the left, the prompt is truncated first.
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

    /// The token ids of each pair, in order, in the model's template, with the type of each token.
    /// A pair with more than `max_length` tokens is truncated on `side`: first the longer text,
    /// then both equally, as in Hugging Face's `longest_first`.
    ///
    /// # Errors
    /// [`Error::Tokenize`] with the pair's position; [`Error::InvalidOption`] if `max_length`
    /// leaves no room for text; [`Error::Unsupported`] if the model has no template for pairs.
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

    /// The tokens of a pair of texts, on the calling thread. `index` is its position in the input,
    /// for errors.
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
            found: format!("no template for pairs ({reason})"),
            supported: "a template with a place for each of two texts".into(),
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

    /// The token ids of a text alone, without truncation and special tokens. `index` is its
    /// position in the input, for errors.
    pub(crate) fn encode_bare(&self, text: &str, index: usize) -> Result<Vec<u32>> {
        self.ids(text, index)
    }

    /// Number of special tokens around a text.
    pub(crate) fn special_tokens(&self) -> usize {
        self.single.special()
    }

    /// The token ids of a text with the special tokens around it.
    pub(crate) fn filled(&self, ids: &[u32]) -> Tokens {
        self.single.fill([ids], ids.len() + self.single.special())
    }

    /// The token ids of a text alone, without special tokens.
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

    /// The number of leading tokens that sentence-transformers 6.2.0 counts as the prompt
    /// (`Transformer._get_prompt_length`): as many as the prompt alone has, without a special token
    /// at the end.
    fn prompt_len(&self, prompt: &str, side: TruncationSide) -> Result<usize> {
        let alone = self.tokens(prompt, 0, side)?;
        let ends = alone.ids.last().is_some_and(|id| self.special.contains(id));
        Ok(alone.len() - usize::from(ends))
    }

    /// The parts of a text, without truncation, with their positions.
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

    /// The text of token ids, close to the original: case, accents and spaces that the tokenizer
    /// removed are lost, and an id that several entries of the vocabulary share becomes the first
    /// of them.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let failed = |e: tokenizers::Error| Error::Tokenize { index: 0, reason: e.to_string() };
        if self.names.is_empty() {
            return self.pipeline.decode(ids, skip_special).map_err(failed);
        }
        // The same as in the crate, except for the names.
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

/// Truncates `ids` to at most `room`.
fn cut(ids: &[u32], room: usize, side: TruncationSide) -> &[u32] {
    let kept = room.min(ids.len());
    match side {
        TruncationSide::Right => &ids[..kept],
        TruncationSide::Left => &ids[ids.len() - kept..],
    }
}

/// How many tokens of two texts with these lengths stay if `room` tokens fit. Follows the crate
/// (`truncate_encodings` in its `utils/truncation.rs`) when it knows the true lengths, as in
/// Python. (Otherwise the crate stops counting at the limit, so that either text may seem longer to
/// it.) The longer text is truncated to what the shorter one leaves, and both to one half if even
/// the shorter one has more. If the number is odd, the longer text gets one more.
fn longest_first(first: usize, second: usize, room: usize) -> (usize, usize) {
    if first + second <= room {
        return (first, second);
    }
    let shorter = first.min(second).min(room / 2);
    if first > second { (room - shorter, shorter) } else { (shorter, room - shorter) }
}

/// Parses a part of the file as the crate does.
fn part<T: DeserializeOwned>(json: &Value, name: &str) -> Result<Option<T>, String> {
    serde_json::from_value(json.clone()).map_err(|e| format!("`{name}`: {e}"))
}

/// The part that puts special tokens around a text.
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

/// Adds special tokens that are in no list of added tokens. One that is in no vocabulary gets the
/// next id, as in transformers. If the model has no row for that id, the token is left out, and its
/// name in a text is ordinary text.
fn add_special(tokens: &[AddedToken], pipeline: &mut Pipeline, vocab: usize) -> Result<(), String> {
    let highest = pipeline.get_added_tokens_decoder().into_keys().max().map_or(0, |id| id as usize + 1);
    let mut next = pipeline.get_vocab_size(false).max(highest);
    let mut kept = Vec::new();
    for token in tokens {
        if pipeline.token_to_id(&token.content).is_none() {
            if next >= vocab {
                tracing::warn!(
                    token = token.content,
                    "a special token is not in the vocabulary: its name in a text is ordinary text"
                );
                continue;
            }
            next += 1;
        }
        kept.push(token.clone());
    }
    pipeline.add_tokens(kept).map(|_| ()).map_err(|e| e.to_string())
}

/// The ids of the special tokens by their names in the settings, or else of those with the usual
/// names.
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

/// For each id with several names, the first name in the file. The crate would use any of them, a
/// different one in each process.
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
