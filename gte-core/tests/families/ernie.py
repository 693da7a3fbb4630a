"""ERNIE: BERT with a table of tasks, of which the first row counts."""

import torch
from transformers import ErnieConfig, ErnieForSequenceClassification, ErnieModel

from . import vocabularies
from .directory import Directory, draw, fill, pool, reload, states, text_rows, unit
from .encoders import LENGTHS, bert_classifier, bert_config, bert_like, halves


def embedder(name, hidden, layers, heads, inner, length, pooling, dtype, types, **task):
    tokenizer, tokens = vocabularies.wordpiece()
    vocab = tokenizer.get_vocab_size()
    config = bert_config(vocab, hidden, layers, heads, inner, length, ErnieConfig, types, **task)
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
    bert_classifier("ernie-reranker", 1, 24, 3, ErnieConfig, ErnieForSequenceClassification)


ALL = {"ernie": ernie, "ernie-task": ernie_task, "ernie-reranker": ernie_reranker}
