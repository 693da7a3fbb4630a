"""One query and 50 passages of 200 tokens, from texts to scores: our engine and the CrossEncoder of
sentence-transformers with PyTorch, ONNX Runtime and OpenVINO.
"""

import os
import sys
import time

import numpy as np

import peers
import record
from checkpoint import agreement
from compare import Found, check
from ours import ROOT, Ours
from turns import Turns

PASSAGES, TOKENS, QUERY = 50, 200, 16
BATCHES, CHECKED = (1, 4, 16), 16  # batch sizes of the CrossEncoder, and the number of passages to try them on
WORKLOAD = "rerank1x50x200"


def words(checkpoint, tokens, seed):
    """A text with this many tokens, by the model's tokenizer, without special tokens."""
    from tokenizers import Tokenizer

    sys.path.insert(0, os.path.join(ROOT, "gte-core/tests"))
    from families import vocabularies

    tokenizer = Tokenizer.from_file(checkpoint.file("tokenizer.json"))
    length = lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
    lines = [line for line in vocabularies.lines(232) if line]
    rng, text = np.random.default_rng(seed), ""
    while length(text) < tokens:
        text += rng.choice(lines)
    while length(text) > tokens:
        text = text[:-1]
    return text


def question(checkpoint):
    query = words(checkpoint, QUERY, 0)
    return query, [words(checkpoint, TOKENS, 1 + i) for i in range(PASSAGES)]


class CrossEncoder:
    """The CrossEncoder of sentence-transformers with one of the engines in peers.py. Its own
    backends for ONNX Runtime and OpenVINO need an older transformers than sentence-transformers
    does (optimum-onnx 0.1.0, optimum-intel 2.2.0), so the engine replaces the forward pass of its
    model. Texts, batches and padding stay its own.
    """

    def __init__(self, name, checkpoint, threads):
        import torch
        from sentence_transformers import CrossEncoder
        from transformers.modeling_outputs import SequenceClassifierOutput

        torch.set_num_threads(threads)
        kind, precision = name.split("-")
        dtype = torch.bfloat16 if name == "torch-bf16" else torch.float32
        options = {"dtype": dtype, "attn_implementation": "sdpa"}
        self.encoder = CrossEncoder(checkpoint.path, device="cpu", model_kwargs=options)
        if kind != "torch" or precision == "int8":
            engine = peers.engine(name, checkpoint, threads)

            def forward(input_ids, attention_mask, **_):
                scores = engine(input_ids.numpy(), attention_mask.numpy())
                return SequenceClassifierOutput(logits=torch.tensor(scores))

            self.encoder.model.forward = forward

    def scores(self, query, passages, batch):
        pairs = [(query, passage) for passage in passages]
        return self.encoder.predict(pairs, batch_size=batch, show_progress_bar=False)

    def seconds(self, query, passages, batch):
        start = time.perf_counter()
        self.scores(query, passages, batch)
        return time.perf_counter() - start


def logit(scores):
    scores = np.clip(np.asarray(scores, np.float64), 1e-12, 1 - 1e-12)
    return np.log(scores / (1 - scores))[:, None]


def names(precision):
    return peers.OF_PRECISION[precision]


def prepare(checkpoint, precision, threads):
    """The agreement of the results with PyTorch's in f32, and the best batch size of each peer."""
    query, passages = question(checkpoint)
    found, path = Found(checkpoint), checkpoint.own("expected-rerank.npy")
    if not os.path.exists(path):
        reference = CrossEncoder("torch-f32", checkpoint, threads)
        np.save(path, logit(reference.scores(query, passages[:CHECKED], 4)))
    expected = np.load(path)
    for name in names(precision):
        if found.of(name, WORKLOAD) is None:
            encoder = CrossEncoder(name, checkpoint, threads)
            first = passages[:CHECKED]
            size = min(BATCHES, key=lambda size: encoder.seconds(query, first, size))
            close = agreement(logit(encoder.scores(query, first, size)), expected)
            value = {"size": size, "agreement": close}
            found.put(name, WORKLOAD, value)
            print(f"{checkpoint.name} {name} {WORKLOAD}: {value}", flush=True)
    with Ours(checkpoint, precision, threads, workload(query, passages)) as ours:
        close = agreement(logit(ours.answers(WORKLOAD)[:CHECKED, 0]), expected)
        print(f"{checkpoint.name} gte-{precision} {WORKLOAD}: agreement {close}", flush=True)
        check(checkpoint, WORKLOAD, precision, close)


def workload(query, passages):
    return {WORKLOAD: {"query": query, "documents": passages}}


def measure(checkpoint, precision, threads, seconds, name, out):
    end = time.perf_counter() + seconds
    (query, passages), found = question(checkpoint), Found(checkpoint)
    known = {n: found.of(n, WORKLOAD) for n in names(precision)}
    engines = {n: CrossEncoder(n, checkpoint, threads) for n in known}
    expected = np.load(checkpoint.own("expected-rerank.npy"))
    with Ours(checkpoint, precision, threads, workload(query, passages)) as ours:
        close = agreement(logit(ours.answers(WORKLOAD)[:CHECKED, 0]), expected)
        check(checkpoint, WORKLOAD, precision, close)
        run = lambda n: lambda: engines[n].seconds(query, passages, known[n]["size"])
        others = {n: run(n) for n in engines}
        turns = Turns(lambda: ours.seconds(WORKLOAD), others, end - time.perf_counter())
        ready = ours.ready
    known["gte"] = {"agreement": close, "size": ""}
    rows = [
        {
            "workload": WORKLOAD,
            "engine": f"gte-{precision}" if n == "gte" else f"cross-encoder-{n}",
            "passages": PASSAGES,
            "batch": known[n]["size"],
            "agreement": round(known[n]["agreement"], 6),
            **turns.row(n),
        }
        for n in turns.engines
    ]
    once = lambda n: " (once)" if n in turns.slow else ""
    each = "   ".join(f"{n} {turns.median(n):.2f} s{once(n)}" for n in turns.engines)
    lines = [
        ready,
        f"one query of {QUERY} tokens, {PASSAGES} passages of {TOKENS}, from texts to scores",
        f"{each}   {turns.verdict()}",
    ]
    print("\n".join(lines[1:]), flush=True)
    record.write(out, name, f"{checkpoint.name}, {precision}, {threads} threads", lines, rows)
