"""Compares gte in Python with sentence-transformers, with the same weights, threads and texts, in
turn; and gte in Python with the engine alone.

    python python.py MODEL_DIR [--threads 2] [--rounds 7] [--out benches/record]

`encode` of 1,000 English sentences of mixed lengths: the ratio of the times in each round, and the
median over the rounds, after the vectors were compared. `embed` of 10,000 short texts: the share
that Python adds to the time of the Rust engine (`benches --bin texts`) with the same texts. Needs
the module gte in this interpreter, and the benchmarks built. Writes OUT/MACHINE/python-DATE.txt.
"""

import argparse
import datetime
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import gte
import numpy as np
from record import machine

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOMAINS = ["service", "life", "tech", "business", "culture"]


def sentences(column):
    rows = [
        line.split("\t")[column]
        for d in DOMAINS
        for line in (ROOT / f"gte-core/bundled/train/data/{d}.pairs.tsv")
        .read_text(encoding="utf8")
        .splitlines()
        if "\t" in line
    ]
    return list(dict.fromkeys(rows))


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main():
    p = argparse.ArgumentParser()
    p.add_argument("model_dir")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--out", type=pathlib.Path, default=ROOT / "benches/record")
    a = p.parse_args()
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(a.threads)
    peer = SentenceTransformer(a.model_dir, device="cpu")
    english = sentences(1)
    texts = english[:: len(english) // 1000][:1000]
    ours = {
        name: gte.Embedder(a.model_dir, precision=name, threads=a.threads)
        for name in ("f32", "bf16", "int8")
    }
    expected = peer.encode(texts, normalize_embeddings=True)
    lines = [
        f"{os.path.basename(a.model_dir.rstrip('/'))}, {a.threads} threads, {ours['f32'].isa}; encode of {len(texts)} sentences of {min(map(len, texts))} to {max(map(len, texts))} characters"
    ]
    for name, embedder in ours.items():
        cosines = (embedder.encode(texts) * expected).sum(1)
        lines.append(
            f"{name}: cosine with sentence-transformers {cosines.mean():.6f} in the mean, {cosines.min():.6f} at worst"
        )
        assert cosines.min() > {"f32": 0.999999, "bf16": 0.999, "int8": 0.99}[name], lines[-1]
    times = {name: [] for name in ["sentence-transformers", *ours]}
    for _ in range(a.rounds):
        times["sentence-transformers"].append(seconds(lambda: peer.encode(texts)))
        for name, embedder in ours.items():
            times[name].append(seconds(lambda: embedder.encode(texts)))
    for name, values in times.items():
        ratio = statistics.median(s / o for s, o in zip(times["sentence-transformers"], values))
        lines.append(
            f"{name}: {len(texts) / statistics.median(values):.0f} sentences/s, {ratio:.2f} x sentence-transformers"
        )
        print(lines[-1], flush=True)

    short = [t for t in sentences(0) if len(t) < 24]
    short = (short * (10_000 // len(short) + 1))[:10_000]
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf8") as f:
        f.write("\n".join(short) + "\n")
        f.flush()
        engine = subprocess.Popen(
            [
                ROOT / "target/release/texts",
                "--model",
                a.model_dir,
                "--threads",
                str(a.threads),
                "--in-turn",
                f.name,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        engine.stdout.readline()

        def alone():
            engine.stdin.write("embed\n")
            engine.stdin.flush()
            return float(engine.stdout.readline())

        ours["f32"].embed(short)
        pairs = [(alone(), seconds(lambda: ours["f32"].embed(short))) for _ in range(a.rounds)]
        engine.stdin.close()
    overhead = statistics.median(python / rust - 1 for rust, python in pairs)
    best = min(python for _, python in pairs) / min(rust for rust, _ in pairs) - 1
    lines.append(
        f"embed of {len(short)} short texts: the Rust engine {statistics.median(r for r, _ in pairs):.3f} s, Python adds {100 * overhead:+.1f} % (median over {a.rounds} rounds), {100 * best:+.1f} % of the best times"
    )
    print(lines[-1], flush=True)
    name, lscpu = machine()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT
    ).stdout.strip()
    (a.out / name).mkdir(parents=True, exist_ok=True)
    (a.out / name / f"python-{datetime.date.today()}.txt").write_text(
        "\n".join([f"commit {commit}", *lines, "", lscpu]), encoding="utf8"
    )


if __name__ == "__main__":
    main()
