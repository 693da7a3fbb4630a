"""Alibaba's NewModel, in Alibaba's own files (`new`) and as transformers saves it (`gte`)."""

import os
import shutil
import tempfile

import torch
from transformers import (
    GteConfig,
    GteForSequenceClassification,
    GteForTokenClassification,
    GteModel,
)

from . import vocabularies
from .directory import (
    Directory,
    draw,
    dump,
    fill,
    logits,
    pair_rows,
    reload,
    states,
    text_rows,
    unit,
)
from .encoders import LENGTHS, XLMR_INSIDE, halves, labels, rank_rows, sparse_weights


def packed(state, prefix):
    """The names and the packing of Alibaba's files: [q; k; v] and [up; gate] in one matrix each."""
    out = {}
    for key, value in state.items():
        key = key.removeprefix("gte.")
        head = key.startswith("classifier.")
        key = (
            key.replace("layers.", "encoder.layer.")
            .replace("self_attn.o_proj", "attention.o_proj")
            .replace("post_attention_layernorm", "attn_ln")
            .replace("post_mlp_layernorm", "mlp_ln")
        )
        if ".k_proj." in key or ".v_proj." in key or ".gate_proj." in key:
            continue
        if ".q_proj." in key:
            parts = [state[_plain(state, key.replace("q_proj", f"{p}_proj"))] for p in "qkv"]
            key, value = key.replace("self_attn.q_proj", "attention.qkv_proj"), torch.cat(parts)
        elif ".up_proj." in key:
            parts = [
                state[_plain(state, key.replace("up_proj", f"{p}_proj"))] for p in ("up", "gate")
            ]
            key, value = key.replace("up_proj", "up_gate_proj"), torch.cat(parts)
        out[key if head else prefix + key] = value
    return out


def _plain(state, key):
    key = key.replace("encoder.layer.", "layers.")
    return key if key in state else "gte." + key


def own_config(config, scaling, **more):
    """The keys of Alibaba's configuration class."""
    keys = (
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
        "type_vocab_size",
        "layer_norm_eps",
        "pad_token_id",
        "hidden_act",
    )
    return {
        "model_type": "new",
        **more,
        **{k: getattr(config, k) for k in keys},
        "layer_norm_type": "layer_norm",
        "logn_attention_clip1": False,
        "logn_attention_scale": False,
        "pack_qkv": True,
        "position_embedding_type": "rope",
        "rope_scaling": scaling,
        "unpad_inputs": False,
        "use_memory_efficient_attention": False,
        "attention_probs_dropout_prob": 0.0,
        "hidden_dropout_prob": 0.1,
        "torch_dtype": "float16",
        "transformers_version": "4.39.1",
    }


def gte_config(vocab, hidden, layers, heads, inner, types, theta, factor, pad=1, **more):
    """With `factor` of Alibaba's `ntk`: base theta · factor, and all angles divided by
    factor^(2/d).
    """
    size = hidden // heads
    rope = {"rope_type": "default", "rope_theta": theta}
    if factor:
        rope = {"rope_type": "linear", "rope_theta": theta * factor, "factor": factor ** (2 / size)}
    return GteConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=96,
        type_vocab_size=types,
        layer_norm_eps=1e-12,
        pad_token_id=pad,
        hidden_act="gelu",
        rope_parameters=rope,
        **more,
    )


def read_as_gte(kind, out, config):
    """The weights of `out` as transformers reads them: it knows `gte` and these names, but not the
    model type `new`.
    """
    with tempfile.TemporaryDirectory() as d:
        shutil.copy(out.file("model.safetensors"), d)
        dump(os.path.join(d, "config.json"), config.to_dict())
        return reload(kind, d)


def new(
    name,
    kind,
    tokenizer,
    shape,
    types,
    theta,
    scaling,
    prefix,
    auto,
    dtype=torch.float16,
    pooling="cls",
    count=None,
    bias=None,
):
    """Writes the directory. Returns it with the model, the tokenizer, the usable length and the ids
    to try.
    """
    tokenizer, tokens = tokenizer
    vocab, length = tokenizer.get_vocab_size(), 64
    first, last, pad = (tokens["cls_token"], tokens["sep_token"], tokens["pad_token"])
    first, last, pad = (tokenizer.token_to_id(t) for t in (first, last, pad))
    config = gte_config(
        vocab,
        *shape,
        types,
        theta,
        (scaling or {}).get("factor"),
        pad,
        **({"num_labels": count} if count else {}),
    )
    out = Directory(name)
    out.config(
        own_config(
            config,
            scaling,
            architectures=auto,
            rope_theta=theta,
            **(labels(count) if count else {}),
        )
    )
    model = fill(kind(config).double(), name, dtype)
    if bias is not None:
        model.classifier.bias.data.fill_(bias)
    out.weights(packed(model.state_dict(), prefix), dtype)
    out.tokenizer(tokenizer, tokens, length)
    if pooling:
        out.modules(shape[0], pooling, length)
    lists = [draw(name, vocab, n, first, last) for n in LENGTHS + [length]]
    lists += [draw(name + ":2", vocab, 9, first, last), [pad], [first, pad, last]]
    return out, read_as_gte(kind, out, config), tokenizer, length, lists


def new_ntk():
    out, model, tokenizer, length, lists = new(
        "new-ntk",
        GteModel,
        vocabularies.unigram(),
        (40, 3, 4, 53),
        1,
        20000,
        {"type": "ntk", "factor": 8.0},
        "new.",
        ["NewModel"],
    )
    out.expect(
        cases=[{"ids": i, "embedding": unit(states(model, i)[0])} for i in lists],
        texts=text_rows(tokenizer, length, XLMR_INSIDE),
    )


def new_types0():
    out, model, tokenizer, length, lists = new(
        "new-types0",
        GteModel,
        vocabularies.wordpiece(),
        (36, 2, 6, 37),
        0,
        500000,
        {"type": "ntk", "factor": 2.0},
        "",
        ["NewModel"],
    )
    out.expect(
        cases=[{"ids": i, "embedding": unit(states(model, i)[0])} for i in lists],
        texts=text_rows(tokenizer, length, ["a [SEP] b [MASK]"]),
    )


def new_types2():
    """With two token types. A single text has type 0, whose row is added."""
    out, model, tokenizer, length, lists = new(
        "new-types2",
        GteModel,
        vocabularies.wordpiece(),
        (48, 1, 2, 45),
        2,
        160000,
        None,
        "new.",
        ["NewModel"],
    )
    cases = []
    for ids in lists:
        for types in [[0] * len(ids)] + ([halves(ids)] if len(ids) > 4 else []):
            cases.append(
                {"ids": ids, "types": types, "embedding": unit(states(model, ids, types)[0])}
            )
    out.expect(cases=cases, texts=text_rows(tokenizer, length, ["a [SEP] b [MASK]"]))


def new_sparse():
    """Like gte-multilingual-base: an embedder whose token classifier is the sparse head."""
    out, model, tokenizer, length, lists = new(
        "new-sparse",
        GteForTokenClassification,
        vocabularies.unigram(),
        (32, 2, 2, 70),
        1,
        20000,
        {"type": "ntk", "factor": 8.0},
        "new.",
        ["NewModel", "NewForTokenClassification"],
        count=1,
        bias=1.5,  # without it no token of these weights has a score above 0
    )
    cases = []
    for ids in lists:
        scores = logits(model, ids)
        cases.append(
            {
                "ids": ids,
                "embedding": unit(states(model.gte, ids)[0]),
                "sparse": sparse_weights(scores[:, 0], ids, {0, 1, 2, 3}),
            }
        )
    out.expect(cases=cases, texts=text_rows(tokenizer, length, XLMR_INSIDE))


def new_reranker():
    out, model, tokenizer, length, lists = new(
        "new-reranker",
        GteForSequenceClassification,
        vocabularies.unigram(),
        (36, 2, 6, 41),
        1,
        20000,
        {"type": "ntk", "factor": 8.0},
        "new.",
        ["NewForSequenceClassification"],
        pooling=None,
        count=1,
    )
    out.expect(
        cases=[{"ids": i, "logits": logits(model, i)} for i in lists],
        texts=pair_rows(tokenizer, length, [("a <pad> b", "</s>c <mask>")], False),
        scores=rank_rows(tokenizer, length, lambda ids, _: logits(model, ids), False),
    )


def gte():
    """As transformers 5.24.0 itself saves the model: its names, and its spelling of RoPE's keys."""
    name = "gte"
    tokenizer, tokens = vocabularies.unigram()
    vocab, length = tokenizer.get_vocab_size(), 70
    config = gte_config(vocab, 30, 2, 3, 53, 1, 160000.0, 2.0)
    out = Directory(name)
    model = fill(GteModel(config).double(), name, torch.float32)
    model.float().save_pretrained(out.path, save_original_format=False)
    out.tokenizer(tokenizer, tokens, length)
    out.modules(30, "mean", length)
    model = reload(GteModel, out.path)
    lists = [draw(name, vocab, n, 0, 2) for n in LENGTHS + [length]]
    out.expect(
        cases=[{"ids": i, "embedding": unit(states(model, i).mean(0))} for i in lists],
        texts=text_rows(tokenizer, length, XLMR_INSIDE),
    )


ALL = {
    "new-ntk": new_ntk,
    "new-types0": new_types0,
    "new-types2": new_types2,
    "new-sparse": new_sparse,
    "new-reranker": new_reranker,
    "gte": gte,
}
