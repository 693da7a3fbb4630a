"""ERNIE: BERT with a table of tasks, of which the first row counts."""

import torch
from transformers import ErnieConfig, ErnieForSequenceClassification, ErnieModel

from . import vocabularies
from .directory import (
    Directory,
    draw,
    fill,
    logits,
    pair_rows,
    pool,
    reload,
    states,
    text_rows,
    unit,
)
from .encoders import LENGTHS, bert_like, halves, labels, rank_rows


def config_of(vocab, hidden, layers, heads, inner, positions, **more):
    return ErnieConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=positions,
        layer_norm_eps=1e-12,
        pad_token_id=0,
        hidden_act="gelu",
        **more,
    )


def embedder(name, hidden, layers, heads, inner, length, pooling, dtype, types, **task):
    tokenizer, tokens = vocabularies.wordpiece()
    vocab = tokenizer.get_vocab_size()
    config = config_of(vocab, hidden, layers, heads, inner, length, type_vocab_size=types, **task)
    out = Directory(name)
    out.config(bert_like(config, architectures=["ErnieModel"], **task))
    out.weights(fill(ErnieModel(config).double(), name, dtype).state_dict(), dtype)
    out.tokenizer(tokenizer, tokens, length)
    out.modules(hidden, pooling, length)
    model = reload(ErnieModel, out.path)
    cases = []
    for n in LENGTHS + [length]:
        ids = draw(name, vocab, n, 2, 3)
        for kinds in [[0] * n] + ([halves(ids)] if types > 1 and n > 4 else []):
            cases.append(
                {
                    "ids": ids,
                    "types": kinds,
                    "embedding": unit(pool(states(model, ids, kinds), pooling)),
                }
            )
    out.expect(cases=cases, texts=text_rows(tokenizer, length, ["a [SEP] b [MASK]", "[PAD][CLS]"]))


def ernie():
    """As ERNIE 3.0's files: several tasks, several token types."""
    task = {"use_task_id": True, "task_type_vocab_size": 3}
    embedder("ernie", 30, 2, 5, 37, 50, "mean", torch.float32, 4, **task)


def ernie_task():
    """Without `task_type_vocab_size`, in f16."""
    embedder("ernie-task", 40, 1, 5, 53, 44, "cls", torch.float16, 2, use_task_id=True)


def ernie_reranker():
    """Without tasks, as ERNIE 1.0 and 2.0."""
    name = "ernie-reranker"
    tokenizer, tokens = vocabularies.wordpiece()
    vocab, length = tokenizer.get_vocab_size(), 48
    config = config_of(vocab, 24, 2, 3, 41, length, num_labels=1)
    out = Directory(name)
    out.config(bert_like(config, architectures=["ErnieForSequenceClassification"], **labels(1)))
    out.weights(fill(ErnieForSequenceClassification(config).double(), name).state_dict())
    out.tokenizer(tokenizer, tokens, length)
    model = reload(ErnieForSequenceClassification, out.path)
    cases = []
    for n in LENGTHS + [length]:
        ids = draw(name, vocab, n, 2, 3)
        cases.append({"ids": ids, "types": halves(ids), "logits": logits(model, ids, halves(ids))})
    inside = [("a [SEP] b", "[CLS]c [MASK]"), ("[PAD]", "[UNK]")]
    out.expect(
        cases=cases,
        texts=pair_rows(tokenizer, length, inside, True),
        scores=rank_rows(tokenizer, length, lambda ids, types: logits(model, ids, types), True),
    )


ALL = {"ernie": ernie, "ernie-task": ernie_task, "ernie-reranker": ernie_reranker}
