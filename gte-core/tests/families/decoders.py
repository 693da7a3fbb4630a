"""Qwen3 and Qwen2: embedders, causal and bidirectional, and rerankers by yes and no, by LogitScore
and by a classifier.
"""

import torch
from jinja2 import Environment
from transformers import (
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
    Qwen3Model,
)

from . import vocabularies
from .directory import (
    PAIRS,
    RANKED,
    Directory,
    draw,
    dump,
    fill,
    logits,
    reload,
    states,
    text_rows,
    unit,
)
from .encoders import labels

LENGTHS = [1, 2, 3, 5, 8, 17, 33, 64]
INSIDE = ["a <|im_end|> b<|endoftext|>", "<think>x</think>", "yes no"]
TASK = "Given a web search query, retrieve relevant passages that answer the query"
SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
PREFIX = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def own_config(config, spelling, **more):
    """The keys of Qwen's files: `rope_theta` at the top level (old), or in `rope_parameters` (new).
    """
    keys = [
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
        "max_position_embeddings",
        "rms_norm_eps",
        "hidden_act",
        "tie_word_embeddings",
        "bos_token_id",
        "eos_token_id",
    ]
    keys += ["head_dim", "attention_bias"] if config.model_type == "qwen3" else []
    theta = config.rope_parameters["rope_theta"]
    rope = (
        {"rope_theta": theta, "rope_scaling": None}
        if spelling == "old"
        else {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}
    )
    return {
        "model_type": config.model_type,
        **more,
        **{k: getattr(config, k) for k in keys},
        **rope,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "max_window_layers": config.num_hidden_layers,
        "sliding_window": None,
        "use_cache": True,
        "use_sliding_window": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.2",
    }


def qwen(
    name,
    kind,
    config_kind,
    hidden,
    layers,
    heads,
    groups,
    inner,
    size=None,
    theta=1e6,
    spelling="old",
    tail=True,
    length=70,
    dtype=torch.bfloat16,
    config_more=None,
    **more,
):
    """Writes everything except the modules. Returns the directory, the model, the tokenizer and its
    end token.
    """
    tokenizer, tokens = vocabularies.qwen(tail=tail)
    vocab, end = tokenizer.get_vocab_size(), tokenizer.token_to_id("<|endoftext|>")
    extra = {"head_dim": size} if size else {}
    config = config_kind(
        vocab_size=vocab,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        intermediate_size=inner,
        max_position_embeddings=512,
        rms_norm_eps=1e-6,
        hidden_act="silu",
        tie_word_embeddings=True,
        bos_token_id=end,
        eos_token_id=end,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        **extra,
        **more,
    )
    out = Directory(name)
    model = fill(kind(config).double(), name, dtype)
    out.config(own_config(config, spelling, architectures=[kind.__name__], **(config_more or {})))
    out.weights({k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}, dtype)
    out.tokenizer(tokenizer, tokens, length)
    return out, reload(kind, out.path), tokenizer, end


def prefix_moves(model, ids):
    """Whether a token's state depends on the tokens after it."""
    a, b = states(model, ids)[: len(ids) - 1], states(model, ids[:-1])
    return (a - b).abs().max().item() > 1e-9


def embedder(name, *shape, causal=True, length=70, prompts=True, pooling="last", **more):
    out, model, tokenizer, end = qwen(name, *shape, length=length, **more)
    out.modules(shape[2], pooling, length)
    query = f"Instruct: {TASK}\nQuery:"
    if prompts:
        dump(
            out.file("config_sentence_transformers.json"),
            {
                "prompts": {"query": query, "document": ""},
                "default_prompt_name": None,
                "similarity_fn_name": "cosine",
            },
        )
    vocab = tokenizer.get_vocab_size()
    lists = [draw(name, vocab, n, None, end) for n in LENGTHS + [length]] + [
        draw(name + ":plain", vocab, n) for n in (1, 4, 20)
    ]
    assert prefix_moves(model, lists[5]) != causal, name
    at = {"last": lambda h: h[-1], "mean": lambda h: h.mean(0)}[pooling]
    out.expect(
        cases=[{"ids": i, "embedding": unit(at(states(model, i)))} for i in lists],
        texts=text_rows(tokenizer, length, INSIDE + ([query + "怎么退货？"] if prompts else [])),
    )


def qwen3():
    embedder("qwen3", Qwen3Model, Qwen3Config, 32, 3, 4, 2, 37, size=10, prompts=True, length=160)


def qwen3_bidirectional():
    embedder(
        "qwen3-bidirectional",
        Qwen3Model,
        Qwen3Config,
        24,
        2,
        3,
        1,
        53,
        size=16,
        causal=False,
        spelling="new",
        pooling="mean",
        config_more={"is_causal": False},
        prompts=False,
        dtype=torch.float32,
    )


def qwen2():
    """Like gte-Qwen2: the file names the mask. The end token is in the template here, but not in
    the real models.
    """
    embedder(
        "qwen2",
        Qwen2Model,
        Qwen2Config,
        36,
        2,
        6,
        2,
        45,
        causal=False,
        config_more={"is_causal": False},
        prompts=False,
    )


def qwen2_causal():
    embedder(
        "qwen2-causal",
        Qwen2Model,
        Qwen2Config,
        32,
        2,
        4,
        4,
        70,
        theta=1e4,
        spelling="new",
        config_more={"is_causal": True},
        prompts=False,
    )


def reranker_ids(tokenizer, length, query, document):
    """As in Qwen's README: prefix and suffix complete, and the text between them truncated at its
    end.
    """
    tokenizer.no_truncation()
    prefix, suffix = (tokenizer.encode(t).ids for t in (PREFIX, SUFFIX))
    middle = tokenizer.encode(f"<Instruct>: {TASK}\n<Query>: {query}\n<Document>: {document}").ids
    return prefix + middle[: length - len(prefix) - len(suffix)] + suffix, len(
        prefix + middle + suffix
    )


def yes_no_rows(rows, ids_of, score):
    texts = []
    for query, document in PAIRS + rows:
        ids, whole = ids_of(query, document)
        texts.append(
            {"query": query, "document": document, "ids": ids}
            | ({"tokens": whole} if whole != len(ids) else {})
        )
    scores = []
    for query, documents in RANKED:
        scores.append(
            {
                "query": query,
                "documents": documents,
                "logits": [score(ids_of(query, d)[0]).item() for d in documents],
            }
        )
    return texts, scores


def qwen3_reranker():
    name, length = "qwen3-reranker", 420
    out, model, tokenizer, _ = qwen(
        name, Qwen3ForCausalLM, Qwen3Config, 32, 2, 3, 1, 37, size=16, tail=False, length=length
    )
    yes, no = (tokenizer.encode(t).ids for t in ("yes", "no"))
    assert len(yes) == len(no) == 1
    score = lambda ids: (lambda row: row[yes[0]] - row[no[0]])(logits(model, ids)[-1])
    lists = [draw(name, tokenizer.get_vocab_size(), n) for n in LENGTHS]
    texts, scores = yes_no_rows(
        [("a <|im_end|> b", "<think>c")], lambda q, d: reranker_ids(tokenizer, length, q, d), score
    )
    out.expect(
        cases=[{"ids": i, "logits": score(i)[None]} for i in lists], texts=texts, scores=scores
    )


TEMPLATE = (
    """<|im_start|>system
Say whether the Document answers the Query, as the Instruct asks. Answer "yes" or "no".<|im_end|>
<|im_start|>user
<Instruct>: {{ messages | selectattr("role", "eq", "system") | map(attribute="content") | first | default(\""""
    + TASK
    + """") }}
<Query>: {{ messages | selectattr("role", "eq", "query") | map(attribute="content") | first }}
<Document>: {{ messages | selectattr("role", "eq", "document") | map(attribute="content") | first }}<|im_end|>
{%- if add_generation_prompt %}
<|im_start|>assistant
<think>

</think>

{% endif %}"""
)


def qwen3_reranker_logitscore():
    """As sentence-transformers saves one: a LogitScore module with two ids of its own, and the
    prompt as a chat template.
    """
    name, length, true, false = "qwen3-reranker-logitscore", 420, 77, 123
    out, model, tokenizer, _ = qwen(
        name,
        Qwen3ForCausalLM,
        Qwen3Config,
        24,
        1,
        4,
        2,
        26,
        size=12,
        tail=False,
        length=length,
        spelling="new",
    )
    dump(
        out.file("modules.json"),
        [
            {
                "idx": 0,
                "name": "0",
                "path": "",
                "type": "sentence_transformers.base.modules.transformer.Transformer",
            },
            {
                "idx": 1,
                "name": "1",
                "path": "1_LogitScore",
                "type": "sentence_transformers.cross_encoder.modules.logit_score.LogitScore",
            },
        ],
    )
    dump(
        out.file("1_LogitScore/config.json"),
        {"true_token_id": true, "false_token_id": false, "module_input_name": "causal_logits"},
    )
    method = {"method": "forward", "method_output_name": "logits"}
    dump(
        out.file("sentence_bert_config.json"),
        {
            "transformer_task": "text-generation",
            "modality_config": {"text": method, "message": method | {"format": "flat"}},
            "module_output_name": "causal_logits",
            "processing_kwargs": {"chat_template": {"add_generation_prompt": True}},
        },
    )
    dump(
        out.file("config_sentence_transformers.json"),
        {
            "__version__": {"sentence_transformers": "6.2.0"},
            "activation_fn": "torch.nn.modules.linear.Identity",
            "default_prompt_name": None,
            "model_type": "CrossEncoder",
            "prompts": {},
        },
    )
    with open(out.file("chat_template.jinja"), "w", encoding="utf8") as f:
        f.write(TEMPLATE)
    template = Environment(trim_blocks=True, lstrip_blocks=True).from_string(TEMPLATE)
    marker = "\ue000"

    def ids_of(query, document):
        """The template's text, truncated at the end of the document, so that what follows it stays.
        """
        render = lambda d: template.render(
            messages=[{"role": "query", "content": query}, {"role": "document", "content": d}],
            add_generation_prompt=True,
        )
        tokenizer.no_truncation()
        suffix = tokenizer.encode(render(marker).split(marker)[1]).ids
        ids = tokenizer.encode(render(document)).ids
        return (ids if len(ids) <= length else ids[: length - len(suffix)] + suffix), len(ids)

    score = lambda ids: (lambda row: row[true] - row[false])(logits(model, ids)[-1])
    lists = [draw(name, tokenizer.get_vocab_size(), n) for n in LENGTHS]
    texts, scores = yes_no_rows([("a <|im_end|> b", "<think>c")], ids_of, score)
    out.expect(
        cases=[{"ids": i, "logits": score(i)[None]} for i in lists], texts=texts, scores=scores
    )


def qwen3_seqcls():
    """A reranker converted to a classifier: `score.weight`, and the last token that is not the pad
    id.
    """
    name, length = "qwen3-seqcls", 420
    end = vocabularies.qwen(tail=False)[0].token_to_id("<|endoftext|>")
    out, model, tokenizer, _ = qwen(
        name,
        Qwen3ForSequenceClassification,
        Qwen3Config,
        28,
        2,
        4,
        2,
        41,
        size=8,
        tail=False,
        length=length,
        spelling="new",
        num_labels=1,
        pad_token_id=end,
        config_more={"pad_token_id": end, **labels(1)},
    )
    vocab = tokenizer.get_vocab_size()
    lists = [draw(name, vocab, n) for n in LENGTHS] + [
        draw(name + ":end", vocab, n, None, end) for n in (2, 9)
    ]
    lists.append(lists[4][:-2] + [end, end])
    score = lambda ids: logits(model, ids)[0]
    texts, scores = yes_no_rows(
        [("a <|im_end|> b", "<think>c")], lambda q, d: reranker_ids(tokenizer, length, q, d), score
    )
    out.expect(
        cases=[{"ids": i, "logits": score(i)[None]} for i in lists], texts=texts, scores=scores
    )


ALL = {
    "qwen3": qwen3,
    "qwen3-bidirectional": qwen3_bidirectional,
    "qwen3-reranker": qwen3_reranker,
    "qwen3-reranker-logitscore": qwen3_reranker_logitscore,
    "qwen3-seqcls": qwen3_seqcls,
    "qwen2": qwen2,
    "qwen2-causal": qwen2_causal,
}
