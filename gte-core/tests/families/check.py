"""Compares the expected values with sentence-transformers, which reads the files and the text."""

import json
import os

import torch

from .directory import OUT

# sentence-transformers has no prompt for these files, since they contain none. The expected scores
# use Qwen's published prompt.
WITHOUT_TEMPLATE = {"qwen3-reranker", "qwen3-seqcls"}
SETTINGS = {
    "device": "cpu",
    "model_kwargs": {"dtype": torch.float64, "attn_implementation": "eager"},
}


def embedder(path, expected):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(path, **SETTINGS)
    for row in expected["texts"]:
        ids = model.preprocess([row["text"]])["input_ids"][0].tolist()
        if ids != row["ids"]:
            raise ValueError(f"{path}: other ids of {row['text']!r}: {ids}, expected {row['ids']}")
    worst = 0
    for case in expected["cases"]:
        if 1 in case.get("types", []):
            continue
        ids = torch.tensor([case["ids"]])
        with torch.no_grad():
            vector = model(
                {"input_ids": ids, "attention_mask": torch.ones_like(ids), "modality": "text"}
            )["sentence_embedding"][0]
        worst = max(
            worst,
            (vector / vector.norm() - torch.tensor(case["embedding"], dtype=torch.float64))
            .abs()
            .max()
            .item(),
        )
    return worst


def reranker(path, expected):
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(path, **SETTINGS)
    worst = 0
    for row in expected["scores"]:
        pairs = [(row["query"], document) for document in row["documents"]]
        found = torch.tensor(
            model.predict(pairs, activation_fn=torch.nn.Identity(), batch_size=1),
            dtype=torch.float64,
        )
        worst = max(
            worst, (found - torch.tensor(row["logits"], dtype=torch.float64)).abs().max().item()
        )
    return worst


def check(name):
    """How `name` compares, in a word. An error if it differs."""
    path = os.path.join(OUT, name)
    with open(os.path.join(path, "expected.json"), encoding="utf8") as f:
        expected = json.load(f)
    with open(os.path.join(path, "config.json"), encoding="utf8") as f:
        if json.load(f)["model_type"] == "new":
            return "not compared with sentence-transformers: transformers has no model type `new`"
    if name in WITHOUT_TEMPLATE:
        return "not compared with sentence-transformers: it would apply no prompt"
    worst = (reranker if "scores" in expected else embedder)(path, expected)
    # Scores come as float32, and the file has nine digits.
    if worst > (2e-7 if "scores" in expected else 1e-9):
        raise ValueError(f"{name}: differs from sentence-transformers by {worst:.1e}")
    return f"equal to sentence-transformers, {worst:.0e}"
