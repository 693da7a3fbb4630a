//! ERNIE (Sun et al. 2020, <https://arxiv.org/abs/1907.12412>; Sun et al. 2021,
//! <https://arxiv.org/abs/2107.02137>; transformers' `modeling_ernie.py`):
//! text2vec-base-chinese-paraphrase and other embedding models on ERNIE 3.0.
//!
//! BERT with a table of tasks. transformers adds its first row unless a caller names another one.

use super::read::{FIRST_TOKEN_TANH, Sizes, size, task};
use super::{Architecture, Choices, Family, Key, Names, PositionRule, bert, harmless, obeyed, refused};
use crate::error::Result;
use crate::json::Json;

pub(super) static FAMILY: Family =
    Family { model_types: &["ernie"], class: "Ernie", read, names: &[NAMES], keys: KEYS };

const NAMES: Names = Names {
    tasks: "embeddings.task_type_embeddings",
    // As of bert, and the table of tasks where it is not used.
    harmless: &[
        "embeddings.position_ids",
        "embeddings.token_type_ids",
        "embeddings.task_type_embeddings",
        "pooler.",
        "cls.",
    ],
    ..bert::NAMES
};

static KEYS: &[Key] = &[
    obeyed("hidden_act", "as in bert"),
    obeyed("hidden_size", "default 768"),
    obeyed("intermediate_size", "default 3072"),
    obeyed("layer_norm_eps", "default 1e-12"),
    obeyed("max_position_embeddings", "default 512"),
    obeyed("num_attention_heads", "default 12"),
    obeyed("num_hidden_layers", "default 12"),
    obeyed("task_type_vocab_size", "read where `use_task_id` is true; default 3"),
    obeyed("type_vocab_size", "default 2"),
    obeyed("use_task_id", "the first row of the table of tasks is added to every token; default false"),
    obeyed("vocab_size", "default 30522"),
    harmless("enable_recompute", "of PaddlePaddle's files: training only"),
    harmless("fuse", "of PaddlePaddle's files: how it is computed, not what"),
    harmless("pad_token_id", "there is no padding, and positions count from 0"),
    harmless("pool_act", "of PaddlePaddle's files; the pooler of a classifier is tanh in transformers"),
    harmless("tie_word_embeddings", "the head of pre-training is not computed"),
    refused("position_embedding_type", "only absolute"),
];

fn read(json: &Json, _choices: &Choices) -> Result<Architecture> {
    let task = task(json, FAMILY.class, FIRST_TOKEN_TANH)?;
    let sizes = Sizes::read(json, [768, 12, 12, 3072, 30522, 512])?;
    let encoder = bert::encoder(json, &FAMILY, sizes, |_| Ok(PositionRule::Index), task)?;
    let task_types = match json.flag("use_task_id")? {
        Some(true) => size(json, "task_type_vocab_size", 1, 1 << 8, 3)?,
        _ => 0,
    };
    Ok(Architecture { task_types, ..encoder })
}
