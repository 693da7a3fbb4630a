"""A checkpoint to measure, and the texts that are computed with it."""

import json
import os

import numpy as np


class Checkpoint:
    """A model directory. Its folder `bench/` contains what the peers need: exports, and what was
    found before the measurement.
    """

    def __init__(self, path):
        self.path, self.name = path, os.path.basename(os.path.normpath(path))
        self.config = self.json("config.json")
        self.scores = not self.has("modules.json")  # a reranker
        self.causal = self.config["model_type"].startswith("qwen")
        self.vocab, self.pad = self.config["vocab_size"], self.config.get("pad_token_id") or 0
        self.for_peers = self.file("as-gte") if self.has("as-gte") else path

    def file(self, name):
        return os.path.join(self.path, name)

    def has(self, name):
        return os.path.exists(self.file(name))

    def json(self, name):
        with open(self.file(name), encoding="utf8") as f:
            return json.load(f)

    def own(self, name):
        """A file of the benchmark in the folder `bench/`."""
        os.makedirs(self.file("bench"), exist_ok=True)
        return self.file(os.path.join("bench", name))

    def ids(self, lengths):
        """Seeded token ids between the special tokens that the tokenizer puts around a text."""
        from tokenizers import Tokenizer

        around = Tokenizer.from_file(self.file("tokenizer.json")).encode("").ids
        rng = np.random.default_rng(11)
        texts = [rng.integers(self.vocab // 4, self.vocab - 200, n) for n in lengths]
        for text in texts:
            text[-1] = around[-1] if around else text[-1]
            text[0] = around[0] if len(around) > 1 else text[0]
        return [text.astype(np.int64) for text in texts]


def batches(texts, size, pad):
    """Texts sorted by length, `size` per batch, padded to the longest of each batch."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        ids = np.full((len(rows), max(len(texts[i]) for i in rows)), pad, np.int64)
        mask = np.zeros_like(ids)
        for row, i in enumerate(rows):
            ids[row, : len(texts[i])] = texts[i]
            mask[row, : len(texts[i])] = 1
        yield rows, ids, mask


def answers(engine, texts, size):
    """A row per text: its unit vector, or its scores."""
    out = [None] * len(texts)
    for rows, ids, mask in batches(texts, size, engine.checkpoint.pad):
        for i, row in zip(rows, engine(ids, mask)):
            out[i] = row
    return np.stack(out)


def agreement(found, expected):
    """The mean cosine of vectors. For scores: 1 minus their mean difference, as a share of the
    largest score.
    """
    if expected.shape[1] == 1:
        return 1 - float(np.abs(found - expected).mean() / np.abs(expected).max())
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return float(((found * expected).sum(1) / norms).mean())
