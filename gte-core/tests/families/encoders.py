"""XLM-RoBERTa, RoBERTa and BERT with their heads and Dense modules."""

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
)

from . import vocabularies
from .directory import (
    RANKED,
    Directory,
    draw,
    encoded,
    fill,
    logits,
    pair_rows,
    pool,
    reload,
    seed_of,
    states,
    text_rows,
    unit,
)

LENGTHS = [1, 2, 3, 5, 8, 13, 24, 41]


def bert_like(config, **more):
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
        "model_type": config.model_type,
        **more,
        **{k: getattr(config, k) for k in keys},
        "attention_probs_dropout_prob": 0.1,
        "hidden_dropout_prob": 0.1,
        "position_embedding_type": "absolute",
        "transformers_version": "4.44.2",
        "use_cache": True,
    }


def labels(n):
    return {
        "id2label": {str(i): f"LABEL_{i}" for i in range(n)},
        "label2id": {f"LABEL_{i}": i for i in range(n)},
    }


def xlmr_config(kind, vocab, hidden, layers, heads, inner, positions, **more):
    return kind(
        vocab_size=vocab,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=positions,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        hidden_act="gelu",
        **more,
    )


def rank_rows(tokenizer, length, score, types):
    rows = []
    for query, documents in RANKED:
        found = []
        for document in documents:
            cut, _ = encoded(tokenizer, length, query, document)
            value = score(cut.ids, cut.type_ids if types else None)
            found.append(value[0] if len(value) == 1 else value)
        rows.append({"query": query, "documents": documents, "logits": torch.stack(found)})
    return rows


def pads_inside(vocab, name):
    """The pad id (1) first, last, in the middle, twice in a row, alone: it has a position of its
    own, and does not advance the others.
    """
    ids = draw(name + ":pads", vocab, 17, 0, 2)
    ids = [i if i != 1 else 9 for i in ids]
    at = lambda *places: [1 if i in places else v for i, v in enumerate(ids)]
    return [at(5), at(5, 6), at(0), at(16), at(1, 3, 9, 15), [1], [0, 1, 2], [1, 1, 1]]


def roberta_like(
    name,
    kind,
    config_kind,
    tokenizer,
    hidden,
    layers,
    heads,
    inner,
    positions,
    pooling,
    dtype,
    file,
    inside,
):
    tokenizer, tokens = tokenizer
    vocab = tokenizer.get_vocab_size()
    config = xlmr_config(config_kind, vocab, hidden, layers, heads, inner, positions)
    out, length = Directory(name), positions - 2
    out.config(
        bert_like(
            config,
            architectures=[kind.__name__],
            bos_token_id=0,
            eos_token_id=2,
            torch_dtype=str(dtype).split(".")[1],
        )
    )
    out.weights(fill(kind(config).double(), name, dtype).state_dict(), dtype, file)
    out.tokenizer(tokenizer, tokens, length)
    out.modules(hidden, pooling, length)
    model = reload(kind, out.path)
    lists = [draw(name, vocab, n, 0, 2) for n in LENGTHS + [length]] + pads_inside(vocab, name)
    cases = []
    for ids in lists:
        cases.append({"ids": ids, "embedding": unit(pool(states(model, ids), pooling))})
    return out, model, tokenizer, length, cases, text_rows(tokenizer, length, inside)


XLMR_INSIDE = ["a <pad> b</s>c <mask> d <unk>", "<s><s>", "<pad>", " <mask>x"]


def xlmr():
    out, _, _, _, cases, texts = roberta_like(
        "xlmr",
        XLMRobertaModel,
        XLMRobertaConfig,
        vocabularies.unigram(),
        30,
        2,
        5,
        37,
        66,
        "cls",
        torch.float32,
        "model.safetensors",
        XLMR_INSIDE,
    )
    out.expect(cases=cases, texts=texts)


def xlmr_mean():
    out, _, _, _, cases, texts = roberta_like(
        "xlmr-mean",
        XLMRobertaModel,
        XLMRobertaConfig,
        vocabularies.unigram(),
        40,
        3,
        5,
        53,
        52,
        "mean",
        torch.float16,
        "model.safetensors",
        XLMR_INSIDE,
    )
    out.expect(cases=cases, texts=texts)


def roberta():
    out, _, _, _, cases, texts = roberta_like(
        "roberta",
        RobertaModel,
        RobertaConfig,
        vocabularies.roberta(),
        48,
        1,
        3,
        70,
        60,
        "mean",
        torch.float16,
        "pytorch_model.bin",
        XLMR_INSIDE,
    )
    out.expect(cases=cases, texts=texts)


def linear(name, outputs, inputs, bias, dtype):
    """A seeded linear layer's tensors, exact in `dtype`."""
    noise = lambda part, *shape: torch.randn(
        shape, generator=torch.Generator().manual_seed(seed_of(name + part)), dtype=torch.float64
    )
    tensors = {"weight": (noise("weight", outputs, inputs) / inputs**0.5).to(dtype)}
    if bias:
        tensors["bias"] = (0.2 * noise("bias", outputs)).to(dtype)
    return tensors


def sparse_weights(scores, ids, unused):
    """relu, the maximum of each id, without the ids in `unused`."""
    found = {}
    for i, w in zip(ids, scores.relu().tolist()):
        if i not in unused and w > 0:
            found[i] = max(found.get(i, 0.0), w)
    return {str(i): found[i] for i in sorted(found)}


def bge_m3():
    """Its heads are computed here as in FlagEmbedding: from the last hidden state, with each `.pt`
    file a state dict in f16.
    """
    out, model, _, _, cases, texts = roberta_like(
        "bge-m3",
        XLMRobertaModel,
        XLMRobertaConfig,
        vocabularies.unigram(),
        32,
        2,
        2,
        71,
        58,
        "cls",
        torch.float16,
        "pytorch_model.bin",
        XLMR_INSIDE,
    )
    sparse, colbert = (
        linear("sparse", 1, 32, True, torch.float16),
        linear("colbert", 32, 32, True, torch.float16),
    )
    out.weights(sparse, torch.float16, "sparse_linear.pt")
    out.weights(colbert, torch.float16, "colbert_linear.pt")
    for case in cases:
        h = states(model, case["ids"])
        head = lambda tensors: h @ tensors["weight"].double().T + tensors["bias"].double()
        case["sparse"] = sparse_weights(head(sparse)[:, 0], case["ids"], {0, 1, 2, 3})
        if len(case["ids"]) > 20:
            continue  # The matrix of a long text would be most of the file.
        rows = head(colbert)[1:]
        case["colbert"] = rows / rows.norm(dim=1, keepdim=True)
    out.expect(cases=cases, texts=texts)


def xlmr_reranker():
    tokenizer, tokens = vocabularies.unigram()
    vocab, name, length = tokenizer.get_vocab_size(), "xlmr-reranker", 64
    config = xlmr_config(XLMRobertaConfig, vocab, 32, 2, 4, 45, length + 2, num_labels=1)
    out = Directory(name)
    out.config(
        bert_like(
            config,
            architectures=["XLMRobertaForSequenceClassification"],
            bos_token_id=0,
            eos_token_id=2,
            **labels(1),
        )
    )
    out.weights(
        fill(
            XLMRobertaForSequenceClassification(config).double(), name, torch.float16
        ).state_dict(),
        torch.float16,
    )
    out.tokenizer(tokenizer, tokens, length)
    model = reload(XLMRobertaForSequenceClassification, out.path)
    lists = [draw(name, vocab, n, 0, 2) for n in LENGTHS + [length]] + pads_inside(vocab, name)
    inside = [("a <pad> b", "</s>c <mask>"), ("<s>", "<pad>")]
    out.expect(
        cases=[{"ids": ids, "logits": logits(model, ids)} for ids in lists],
        texts=pair_rows(tokenizer, length, inside, False),
        scores=rank_rows(tokenizer, length, lambda ids, _: logits(model, ids), False),
    )


def bert_config(
    vocab, hidden, layers, heads, inner, positions, kind=BertConfig, type_vocab_size=2, **more
):
    return kind(
        vocab_size=vocab,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=positions,
        type_vocab_size=type_vocab_size,
        layer_norm_eps=1e-12,
        pad_token_id=0,
        hidden_act="gelu",
        **more,
    )


def halves(ids):
    """Types of a pair: the first [SEP] (3) ends the query; without one inside, a third of the
    tokens do.
    """
    cut = max(1, len(ids) // 3)
    return [0] * cut + [1] * (len(ids) - cut)


def bert_classifier(
    name="bert-classifier",
    count=1,
    hidden=24,
    heads=4,
    config_kind=BertConfig,
    kind=BertForSequenceClassification,
):
    tokenizer, tokens = vocabularies.wordpiece()
    vocab, length = tokenizer.get_vocab_size(), 48
    config = bert_config(vocab, hidden, 2, heads, 37, length, config_kind, num_labels=count)
    out = Directory(name)
    out.config(
        bert_like(
            config,
            architectures=[kind.__name__],
            classifier_dropout=None,
            **labels(count),
        )
    )
    out.weights(fill(kind(config).double(), name).state_dict())
    out.tokenizer(tokenizer, tokens, length)
    model = reload(kind, out.path)
    cases = []
    for n in LENGTHS + [length]:
        ids = draw(name, vocab, n, 2, 3)
        for types in [halves(ids)] if n < 8 else [halves(ids), [0] * n, [i % 2 for i in range(n)]]:
            cases.append({"ids": ids, "types": types, "logits": logits(model, ids, types)})
    inside = [("a [SEP] b", "[CLS]c [MASK]"), ("[PAD]", "[UNK]")]
    out.expect(
        cases=cases,
        texts=pair_rows(tokenizer, length, inside, True),
        scores=rank_rows(tokenizer, length, lambda ids, types: logits(model, ids, types), True),
    )


def bert_classifier_3():
    bert_classifier("bert-classifier-3", 3, 30, 5)


def bert_dense(name="bert-dense", hidden=32, heads=4, pooling="mean", modules=None):
    modules = modules or [(20, hidden, True, "torch.nn.modules.activation.Tanh", False)]
    tokenizer, tokens = vocabularies.wordpiece()
    vocab, length = tokenizer.get_vocab_size(), 50
    config = bert_config(vocab, hidden, 1, heads, 70, length)
    out = Directory(name)
    out.config(bert_like(config, architectures=["BertModel"]))
    out.weights(fill(BertModel(config).double(), name).state_dict())
    out.tokenizer(tokenizer, tokens, length)
    dense, layers = [], []
    for i, (outputs, inputs, bias, activation, residual) in enumerate(modules):
        parts = linear(f"{name}:{i}", outputs, inputs, bias, torch.float32)
        tensors = {"linear." + k: v for k, v in parts.items()}
        if residual and outputs != inputs:
            tensors["residual.weight"] = linear(
                f"{name}:{i}:residual", outputs, inputs, False, torch.float32
            )["weight"]
        values = {
            "in_features": inputs,
            "out_features": outputs,
            "bias": bias,
            "activation_function": activation,
        }
        if residual:
            values["use_residual"] = True
        dense.append((values, tensors))
        layers.append((tensors, activation.endswith("Tanh"), residual))
    out.modules(hidden, pooling, length, dense)
    model = reload(BertModel, out.path)

    def embedding(ids):
        x = pool(states(model, ids), pooling)
        for tensors, tanh, residual in layers:
            y = x @ tensors["linear.weight"].double().T + (
                tensors["linear.bias"].double() if "linear.bias" in tensors else 0
            )
            y = y.tanh() if tanh else y
            if residual:
                y = y + (
                    x @ tensors["residual.weight"].double().T if "residual.weight" in tensors else x
                )
            x = y
        return unit(x)

    lists = [draw(name, vocab, n, 2, 3) for n in LENGTHS + [length]]
    out.expect(
        cases=[{"ids": ids, "embedding": embedding(ids)} for ids in lists],
        texts=text_rows(tokenizer, length, ["a [SEP] b [MASK]", "[PAD][CLS]"]),
    )


def bert_dense_2():
    identity = "torch.nn.modules.linear.Identity"
    bert_dense(
        "bert-dense-2",
        28,
        2,
        "cls",
        [
            (28, 28, False, identity, True),
            (45, 28, False, identity, False),
            (33, 45, True, identity, True),
        ],
    )


ALL = {
    "xlmr": xlmr,
    "xlmr-mean": xlmr_mean,
    "roberta": roberta,
    "bge-m3": bge_m3,
    "xlmr-reranker": xlmr_reranker,
    "bert-classifier": bert_classifier,
    "bert-classifier-3": bert_classifier_3,
    "bert-dense": bert_dense,
    "bert-dense-2": bert_dense_2,
}
