//! RoBERTa and XLM-RoBERTa (Liu et al. 2019, <https://arxiv.org/abs/1907.11692>; Conneau et al.
//! 2019, <https://arxiv.org/abs/1911.02116>; transformers' `modeling_xlm_roberta.py`): bge-m3,
//! bge-reranker, bce, E5.
//!
//! BERT's encoder with positions that start after the pad id, and its own classifier.

use super::read::{FIRST_TOKEN_TANH, Sizes, size, task};
use super::{Architecture, Choices, Family, Key, Names, PositionRule, bert, harmless, obeyed, refused};
use crate::error::Result;
use crate::json::Json;

pub(super) static FAMILY: Family = Family {
    model_types: &["xlm-roberta", "roberta", "camembert"],
    class: "XLMRoberta",
    read,
    names: &[NAMES],
    keys: KEYS,
};

const NAMES: Names = Names {
    head_dense: "classifier.dense",
    head_out: "classifier.out_proj",
    harmless: &["embeddings.position_ids", "embeddings.token_type_ids", "pooler.", "lm_head."],
    ..bert::NAMES
};

static KEYS: &[Key] = &[
    obeyed("hidden_act", "as in bert"),
    obeyed("hidden_size", "default 768"),
    obeyed("intermediate_size", "default 3072"),
    obeyed("layer_norm_eps", "default 1e-12"),
    obeyed("max_position_embeddings", "default 512; the usable length is smaller by the pad id plus one"),
    obeyed("num_attention_heads", "default 12"),
    obeyed("num_hidden_layers", "default 12"),
    obeyed("pad_token_id", "positions start after it; default 1"),
    obeyed("type_vocab_size", "default 2"),
    obeyed("vocab_size", "default 50265 (roberta), 30522 (xlm-roberta)"),
    harmless("tie_word_embeddings", "only for the head of pre-training"),
    refused("position_embedding_type", "only absolute"),
];

fn read(json: &Json, _choices: &Choices) -> Result<Architecture> {
    let model_type = json.string("model_type")?.unwrap_or_default();
    let (class, vocab) = match model_type {
        "roberta" => ("Roberta", 50265),
        "camembert" => ("Camembert", 30522),
        _ => (FAMILY.class, 30522),
    };
    let task = task(json, class, FIRST_TOKEN_TANH)?;
    let sizes = Sizes::read(json, [768, 12, 12, 3072, vocab, 512])?;
    let pad = size(json, "pad_token_id", 0, sizes.vocab as u64 - 1, 1)?;
    bert::encoder(json, &FAMILY, sizes, |_| Ok(PositionRule::AfterPad(pad as u32)), task)
}
