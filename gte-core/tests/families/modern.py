"""ModernBERT: an embedder in the older spelling of its config, and rerankers in both."""

import torch
from transformers import ModernBertConfig, ModernBertForSequenceClassification, ModernBertModel

from . import vocabularies
from .directory import Directory, draw, fill, logits, pair_rows, reload, states, text_rows, unit
from .encoders import labels, rank_rows

# Around the window of 8 (a token attends to 4 on each side), and well beyond it.
LENGTHS = [1, 2, 4, 5, 6, 8, 9, 10, 11, 17, 40]


def older(config, **more):
    """The keys in the files of gte-modernbert-base."""
    keys = (
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
        "norm_eps",
        "norm_bias",
        "attention_bias",
        "mlp_bias",
        "local_attention",
        "hidden_activation",
        "pad_token_id",
        "cls_token_id",
        "sep_token_id",
        "bos_token_id",
        "eos_token_id",
        "classifier_pooling",
        "classifier_bias",
        "classifier_activation",
        "decoder_bias",
    )
    return {
        "model_type": "modernbert",
        **more,
        **{k: getattr(config, k) for k in keys},
        "attention_dropout": 0.0,
        "classifier_dropout": 0.0,
        "deterministic_flash_attn": False,
        "embedding_dropout": 0.0,
        "mlp_dropout": 0.0,
        "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0,
        "local_rope_theta": 10000.0,
        "gradient_checkpointing": False,
        "layer_norm_eps": 1e-5,
        "position_embedding_type": "absolute",
        "reference_compile": False,
        "sparse_pred_ignore_index": -100,
        "sparse_prediction": False,
        "torch_dtype": "float16",
        "transformers_version": "4.48.0",
    }


def build(
    name,
    kind,
    hidden,
    layers,
    heads,
    inner,
    window,
    pooling="mean",
    spelling="old",
    dtype=torch.float16,
    **more,
):
    tokenizer, tokens = vocabularies.modernbert()
    vocab, length = tokenizer.get_vocab_size(), 60
    ids = {
        k: tokenizer.token_to_id(t)
        for k, t in (("pad", "[PAD]"), ("cls", "[CLS]"), ("sep", "[SEP]"))
    }
    config = ModernBertConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=72,
        local_attention=window,
        pad_token_id=ids["pad"],
        bos_token_id=ids["cls"],
        cls_token_id=ids["cls"],
        eos_token_id=ids["sep"],
        sep_token_id=ids["sep"],
        classifier_pooling=pooling,
        **more,
    )
    out = Directory(name)
    model = fill(kind(config).double(), name, dtype)
    if spelling == "old":
        extra = labels(config.num_labels) if kind is ModernBertForSequenceClassification else {}
        out.config(older(config, architectures=[kind.__name__], **extra))
        out.weights(model.state_dict(), dtype)
    else:
        model.to(dtype).save_pretrained(out.path)
    out.tokenizer(tokenizer, tokens, length)
    model = reload(kind, out.path)
    lists = [draw(name, vocab, n, ids["cls"], ids["sep"]) for n in LENGTHS + [length]]
    return out, model, tokenizer, length, lists


def modernbert():
    out, model, tokenizer, length, lists = build("modernbert", ModernBertModel, 40, 4, 4, 37, 8)
    out.modules(40, "cls", length)
    out.expect(
        cases=[{"ids": i, "embedding": unit(states(model, i)[0])} for i in lists],
        texts=text_rows(tokenizer, length, ["a [SEP] b [MASK]", "[PAD][CLS] [MASK]"]),
    )


def reranker(name, hidden, layers, heads, inner, window, pooling, spelling, **more):
    out, model, tokenizer, length, lists = build(
        name,
        ModernBertForSequenceClassification,
        hidden,
        layers,
        heads,
        inner,
        window,
        pooling,
        spelling,
        num_labels=1,
        **more,
    )
    out.expect(
        cases=[{"ids": i, "logits": logits(model, i)} for i in lists],
        texts=pair_rows(tokenizer, length, [("a [SEP] b", "[CLS]c [MASK]")], False),
        scores=rank_rows(tokenizer, length, lambda ids, _: logits(model, ids), False),
    )


def modernbert_reranker():
    reranker("modernbert-reranker", 32, 3, 2, 45, 6, "mean", "old")


def modernbert_reranker_cls():
    """As transformers 5.24.0 saves it (`layer_types`, nested `rope_parameters`), with global layers
    other than every third.
    """
    rope = {
        "full_attention": {"rope_type": "default", "rope_theta": 80000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
    }
    reranker(
        "modernbert-reranker-cls",
        36,
        3,
        6,
        26,
        8,
        "cls",
        "new",
        rope_parameters=rope,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    )


ALL = {
    "modernbert": modernbert,
    "modernbert-reranker": modernbert_reranker,
    "modernbert-reranker-cls": modernbert_reranker_cls,
}
