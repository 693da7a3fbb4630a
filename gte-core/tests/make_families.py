"""Writes tiny models of every family, with expected values from transformers in float64.

    python gte-core/tests/make_families.py [NAME...]

It needs the packages of requirements-fixtures.txt. Each model becomes a model directory
gte-core/tests/fixtures/families/NAME with an expected.json in it:

cases    ids (and types, if the model has them) and their results: `embedding` (the unit vector
         after pooling and Dense modules), `logits` (raw scores), `sparse` (weight by id),
         `colbert` (unit vectors, token after token)
texts    texts, or queries with documents, and their ids by the package `tokenizers` with that
         tokenizer.json, truncated to the model's length; `tokens` is the number before truncation
scores   queries with documents, and their raw scores from the texts

Weights and ids are seeded. Expected values are computed from the written files, read again by
transformers, and compared with sentence-transformers once more.
"""

import os
import sys

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from families import alibaba, check, decoders, encoders, ernie, exact, modern

if __name__ == "__main__":
    torch.set_num_threads(2)
    exact.install()
    every = {**encoders.ALL, **ernie.ALL, **alibaba.ALL, **modern.ALL, **decoders.ALL}
    for name in sys.argv[1:] or every:
        every[name]()
        print(f"{name}: {check.check(name)}", flush=True)
