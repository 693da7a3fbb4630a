"""Tests the true shapes of five models on seeded weights: expected values by transformers in
float64, and the results of our examples.

    python gte-core/tests/parity_full.py [NAME...]

It needs the packages of requirements-fixtures.txt, 4 GB of disk and 12 GB of memory. Each directory
is created once, as target/parity/NAME, with expected.jsonl in it. Then `embed` or `rerank` of
target/release (OURS names another folder) compute the same texts in f32, bf16 and int8. The
tokenizers are those of the tiny models: the tables have rows beyond theirs, which are not used.
`--make` stops before our examples run.
"""

import json
import os
import shutil
import subprocess
import sys

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from families import alibaba, directory, encoders, exact, modern, decoders, vocabularies
from families.directory import Directory, encoded, logits, seed_of, states, unit

ROOT = os.path.join("target", "parity")
OURS = os.environ.get("OURS", os.path.join("target", "release"))
# Largest difference of unit vectors in f32, with scores relative to their size; cosines of the low
# precisions.
ENCODER, DECODER, SCORE, BF16, INT8 = 2e-6, 5e-6, 1e-5, 0.9999, 0.999


def seeded(kind, config, name, dtype):
    """The tensors of a model that is never built at full width: each is drawn by its name, as
    `directory.fill` draws them.
    """
    with torch.device("meta"):
        shapes = {k: tuple(p.shape) for k, p in kind(config).named_parameters()}
    out = {}
    for key, shape in shapes.items():
        noise = torch.randn(
            shape, generator=torch.Generator().manual_seed(seed_of(name + ":" + key))
        )
        lower = key.lower()
        if len(shape) == 1:
            noise = 1 + 0.25 * noise if "norm" in lower and key.endswith("weight") else 0.1 * noise
        elif "embed" in lower:
            noise = 0.6 * noise
        else:
            noise = (
                noise
                * (
                    1.4
                    if any(p in lower for p in ("query", "key", "q_proj", "k_proj", "wqkv"))
                    else 1.0
                )
                / shape[1] ** 0.5
            )
        out[key] = noise.to(dtype)
    return out


def texts():
    lines = [line for line in vocabularies.lines(232) if line]
    return lines[:8] + [
        "".join(lines[20:26]),
        " ".join(lines[40:60]),
        directory.LONG,
        "\n".join(lines).replace("\n", " ")[:2200],
    ]


def bge_m3(out, name):
    from transformers import XLMRobertaConfig, XLMRobertaModel

    config = encoders.xlmr_config(XLMRobertaConfig, 250002, 1024, 24, 16, 4096, 8194)
    out.config(
        encoders.bert_like(
            config, architectures=["XLMRobertaModel"], bos_token_id=0, eos_token_id=2
        )
    )
    out.weights(seeded(XLMRobertaModel, config, name, torch.float16), torch.float16)
    out.modules(1024, "cls", 8192)
    return (
        vocabularies.unigram(),
        8192,
        lambda: directory.reload(XLMRobertaModel, out.path),
        lambda h: h[0],
    )


def bge_reranker_base(out, name):
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

    config = encoders.xlmr_config(XLMRobertaConfig, 250002, 768, 12, 12, 3072, 514, num_labels=1)
    out.config(
        encoders.bert_like(
            config,
            architectures=["XLMRobertaForSequenceClassification"],
            bos_token_id=0,
            eos_token_id=2,
            **encoders.labels(1),
        )
    )
    out.weights(
        seeded(XLMRobertaForSequenceClassification, config, name, torch.float16), torch.float16
    )
    return (
        vocabularies.unigram(),
        512,
        lambda: directory.reload(XLMRobertaForSequenceClassification, out.path),
        None,
    )


def gte_multilingual_base(out, name):
    from transformers import GteModel

    scaling = {"type": "ntk", "factor": 8.0}
    config = alibaba.gte_config(250048, 768, 12, 12, 3072, 1, 20000, 8.0)
    config.max_position_embeddings = 8192
    out.config(alibaba.own_config(config, scaling, architectures=["NewModel"], rope_theta=20000))
    out.weights(
        alibaba.packed(seeded(GteModel, config, name, torch.float16), "new."), torch.float16
    )
    out.modules(768, "cls", 8192)
    return (
        vocabularies.unigram(),
        8192,
        lambda: alibaba.read_as_gte(GteModel, out, config),
        lambda h: h[0],
    )


def gte_modernbert_base(out, name):
    from transformers import ModernBertConfig, ModernBertModel

    tokenizer = vocabularies.modernbert()
    ids = {
        k: tokenizer[0].token_to_id(t)
        for k, t in (("pad", "[PAD]"), ("cls", "[CLS]"), ("sep", "[SEP]"))
    }
    config = ModernBertConfig(
        pad_token_id=ids["pad"],
        bos_token_id=ids["cls"],
        cls_token_id=ids["cls"],
        eos_token_id=ids["sep"],
        sep_token_id=ids["sep"],
    )
    out.config(modern.older(config, architectures=["ModernBertModel"]))
    out.weights(seeded(ModernBertModel, config, name, torch.float16), torch.float16)
    out.modules(768, "cls", 8192)
    return tokenizer, 8192, lambda: directory.reload(ModernBertModel, out.path), lambda h: h[0]


def qwen3_embedding(out, name):
    from transformers import Qwen3Config, Qwen3Model

    tokenizer = vocabularies.qwen()
    end = tokenizer[0].token_to_id("<|endoftext|>")
    config = Qwen3Config(
        vocab_size=151669,
        hidden_size=1024,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=3072,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        bos_token_id=end,
        eos_token_id=end,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
    out.config(decoders.own_config(config, "old", architectures=["Qwen3ForCausalLM"]))
    out.weights(seeded(Qwen3Model, config, name, torch.bfloat16), torch.bfloat16)
    out.modules(1024, "last", 8192)
    return tokenizer, 8192, lambda: directory.reload(Qwen3Model, out.path), lambda h: h[-1]


SHAPES = {
    "bge-m3": bge_m3,
    "bge-reranker-base": bge_reranker_base,
    "gte-multilingual-base": gte_multilingual_base,
    "gte-modernbert-base": gte_modernbert_base,
    "Qwen3-Embedding-0.6B": qwen3_embedding,
}


def make(name):
    """The directory. expected.jsonl is its last file, so that the directory is complete if that
    exists.
    """
    directory.OUT = ROOT
    out = Directory(name)
    (tokenizer, tokens), length, load, pool = SHAPES[name](out, name)
    out.tokenizer(tokenizer, tokens, length)
    model = load()
    rows = []
    if pool:
        for text in texts():
            ids = encoded(tokenizer, length, text)[0].ids
            rows.append({"text": text, "ids": ids, "embedding": unit(pool(states(model, ids)))})
            print(f"{name}: {len(ids)} tokens", flush=True)
    else:
        found = texts()
        for query, documents in ((found[2], found[3:9]), (found[0], found[9:])):
            pairs = [encoded(tokenizer, length, query, d)[0].ids for d in documents]
            rows.append(
                {
                    "query": query,
                    "documents": documents,
                    "logits": [logits(model, ids)[0].item() for ids in pairs],
                }
            )
            print(f"{name}: pairs of {[len(p) for p in pairs]} tokens", flush=True)
    with open(out.file("expected.part"), "w", encoding="utf8") as f:
        f.writelines(json.dumps(directory.plain(row), ensure_ascii=False) + "\n" for row in rows)
    os.rename(out.file("expected.part"), out.file("expected.jsonl"))


def run(program, name, precision, lines, *more):
    command = [
        os.path.join(OURS, program),
        "--model",
        os.path.join(ROOT, name),
        "--precision",
        precision,
        *more,
    ]
    done = subprocess.run(
        command, input="".join(line + "\n" for line in lines), capture_output=True, text=True
    )
    if done.returncode:
        return None, done.stderr.strip()
    return [json.loads(line) for line in done.stdout.splitlines()], None


def compare(name):
    """Prints a line per precision. Returns whether all of them are within their bounds."""
    with open(os.path.join(ROOT, name, "expected.jsonl"), encoding="utf8") as f:
        rows = [json.loads(line) for line in f]
    good = True
    for precision in ("f32", "bf16", "int8"):
        if "text" in rows[0]:
            found, error = run("embed", name, precision, [row["text"] for row in rows])
        else:
            asked = [
                json.dumps(
                    {"query": row["query"], "documents": row["documents"]}, ensure_ascii=False
                )
                for row in rows
            ]
            found, error = run("rerank", name, precision, asked, "--raw")
        if error:
            print(f"{name} {precision}: {error}")
            good = False
            continue
        if "text" in rows[0]:
            a, b = (np.array([r["embedding"] for r in part]) for part in (found, rows))
            cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
            largest, bound = np.abs(a - b).max(), DECODER if "Qwen" in name else ENCODER
            kept = {
                "f32": largest <= bound,
                "bf16": cosines.min() >= BF16,
                "int8": cosines.mean() >= INT8,
            }[precision]
            print(
                f"{name} {precision}: largest difference {largest:.1e}, cosine at least {cosines.min():.6f}, mean {cosines.mean():.6f}"
                + ("" if kept else "  BEYOND THE BOUND")
            )
        else:
            a, b = (
                np.array(sum((r[key] for r in part), []))
                for part, key in ((found, "scores"), (rows, "logits"))
            )
            relative = (np.abs(a - b) / np.maximum(np.abs(b), 1)).max()
            kept = precision != "f32" or relative <= SCORE
            print(
                f"{name} {precision}: largest relative difference of a score {relative:.1e}"
                + ("" if kept else "  BEYOND THE BOUND")
            )
        good &= bool(kept)
    return good


if __name__ == "__main__":
    exact.install()
    wanted = [a for a in sys.argv[1:] if not a.startswith("--")] or list(SHAPES)
    for name in wanted:
        if not os.path.exists(os.path.join(ROOT, name, "expected.jsonl")):
            shutil.rmtree(os.path.join(ROOT, name), ignore_errors=True)
            make(name)
    if "--make" not in sys.argv:
        sys.exit(not all([compare(name) for name in wanted]))
