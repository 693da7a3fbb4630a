"""All measurements beside the peers, one after another, each in a separate process.

    python plan.py [prepare] [measure] [memory] [clean] [--shape NAME] [--precision P]

prepare  creates checkpoints and what the peers compute with, and checks all results: an hour or
         more, on a machine that may be busy
measure  takes `--minutes` of a quiet machine; records of today are kept, so that it continues where
         it stopped (`--again` measures them again)
memory   resident memory of our engine; the machine may be busy
clean    deletes what the peers compute with
"""

import argparse
import collections
import os
import shutil
import subprocess
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import compare
import peers
import record
import rerank
import special
from checkpoint import Checkpoint
from ours import ROOT

SHAPES = ["bge-m3", "bge-reranker-base", "gte-multilingual-base", "gte-modernbert-base"]
SHAPES += ["Qwen3-Embedding-0.6B"]
PRECISIONS = ["f32", "bf16", "int8"]
MAKER = os.path.join(ROOT, "benches/peers/make_model.py")

Entry = collections.namedtuple("Entry", "name shape precision kind weight")


def entries():
    """In the order in which they are measured. Weights are rough durations in seconds."""
    cost = {"bge-m3": 1, "bge-reranker-base": 0.28, "gte-multilingual-base": 0.37}
    cost |= {"gte-modernbert-base": 0.36, "Qwen3-Embedding-0.6B": 1.46, "gte-large-zh": 1}
    seconds = {"f32": 200, "bf16": 90, "int8": 70}
    for shape in [*SHAPES, "gte-large-zh"]:
        for precision in PRECISIONS:
            weight = 15 + cost[shape] * seconds[precision]
            yield Entry(f"{shape}-{precision}", shape, precision, "speed", weight)
    for precision, weight in (("f32", 150), ("bf16", 100)):
        name = f"gte-multilingual-base-8192-{precision}"
        yield Entry(name, "gte-multilingual-base", precision, "long", weight)
    for precision, weight in (("f32", 110), ("bf16", 70), ("int8", 55)):
        name = f"bge-reranker-base-50x200-{precision}"
        yield Entry(name, "bge-reranker-base", precision, "rerank", weight)
    yield Entry("Qwen3-Reranker-0.6B-prefix-bf16", "Qwen3-Reranker-0.6B", "bf16", "prefix", 150)
    for shape in SHAPES:
        for precision in PRECISIONS:
            yield Entry(f"{shape}-memory-{precision}", shape, precision, "memory", 30)


def speed(entry, checkpoint):
    """Workloads and peers of a forward pass."""
    if entry.kind == "long":
        return compare.LONG, [f"torch-{entry.precision}"]
    return compare.SPEED, peers.names(checkpoint, entry.precision)


def prepare(entry, checkpoint):
    # With one thread: on a busy machine, threads that wait for each other take many times as long.
    if entry.kind == "rerank":
        rerank.prepare(checkpoint, entry.precision, threads=1)
    elif entry.kind == "prefix":
        special.prepare_prefix(checkpoint, entry.precision, threads=1)
    else:
        workloads, engines = speed(entry, checkpoint)
        compare.prepare(checkpoint, entry.precision, workloads, engines, threads=1)


def measure(entry, checkpoint, a):
    more = (a.threads, a.seconds, entry.name, a.out)
    if entry.kind in ("speed", "long"):
        compare.measure(checkpoint, entry.precision, *speed(entry, checkpoint), *more)
    else:
        one = {"rerank": rerank.measure, "prefix": special.prefix, "memory": special.memory}
        one[entry.kind](checkpoint, entry.precision, *more)


def make(entry, a):
    path = os.path.join(a.models, entry.shape)
    if not os.path.exists(os.path.join(path, "config.json")):
        tiny = ["--tiny"] if a.tiny else []
        subprocess.run([sys.executable, MAKER, entry.shape, path, *tiny], check=True)


def alone(entry, step, seconds, a):
    """One step of one entry, in a separate process, so that its memory is free afterwards."""
    command = [sys.executable, os.path.abspath(__file__), step, "--one", entry.name]
    command += ["--seconds", f"{seconds:.0f}", "--threads", str(a.threads)]
    command += ["--models", a.models, "--out", a.out]
    started = time.perf_counter()
    done = subprocess.run(command)
    said = "" if done.returncode == 0 else f", FAILED with {done.returncode}"
    print(f"-- {step} {entry.name}: {time.perf_counter() - started:.0f} s{said}", flush=True)
    return done.returncode == 0


def measured(wanted, a):
    """Returns whether all were measured. Time that one entry does not use goes to the others."""
    left = [e for e in wanted if a.again or not os.path.exists(record.path(a.out, e.name))]
    expected = sum(e.weight for e in left) / 60
    minutes = min(a.minutes, 1.5 * expected)
    print(f"{len(left)} of {len(wanted)} are to be measured: expected {expected:.0f} minutes")
    print(f"rounds are as many as {minutes:.0f} minutes allow", flush=True)
    end, good = time.perf_counter() + 60 * minutes, True
    for i, entry in enumerate(left):
        share = entry.weight / sum(e.weight for e in left[i:])
        good &= alone(entry, "measure", share * (end - time.perf_counter()), a)
    return good


def clean(wanted, a):
    for shape in {entry.shape for entry in wanted}:
        shutil.rmtree(os.path.join(a.models, shape, "bench"), ignore_errors=True)


def options():
    p = argparse.ArgumentParser()
    p.add_argument("steps", nargs="*", default=["prepare", "measure", "memory"])
    p.add_argument("--shape", help="one of the shapes (default: the five of the goals)")
    p.add_argument("--precision", choices=PRECISIONS)
    p.add_argument("--kind", choices=["speed", "long", "rerank", "prefix", "memory"])
    p.add_argument("--minutes", type=float, default=33, help="duration of the measurement")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--models", default=os.path.join(ROOT, "target/models"))
    p.add_argument("--out", default=record.OUT)
    p.add_argument("--again", action="store_true", help="also repeat what was measured today")
    p.add_argument("--tiny", action="store_true", help="create tiny models, to try the benchmark")
    p.add_argument("--one", help=argparse.SUPPRESS)
    p.add_argument("--seconds", type=float, default=60, help=argparse.SUPPRESS)
    return p.parse_args()


def chosen(a):
    for entry in entries():
        usual = entry.shape != "gte-large-zh" if a.shape is None else entry.shape == a.shape
        precision = a.precision in (None, entry.precision)
        if usual and precision and a.kind in (None, entry.kind):
            yield entry


def main():
    a = options()
    if a.one:
        entry = next(e for e in entries() if e.name == a.one)
        checkpoint = Checkpoint(os.path.join(a.models, entry.shape))
        if a.steps == ["prepare"]:
            return prepare(entry, checkpoint)
        return measure(entry, checkpoint, a)
    wanted, good = list(chosen(a)), True
    timed = [e for e in wanted if e.kind != "memory"]
    for step in a.steps:
        if step == "prepare":
            for entry in timed:
                make(entry, a)
                good &= alone(entry, "prepare", 0, a)
        elif step == "measure":
            good &= measured(timed, a)
        elif step == "memory":
            for entry in (e for e in wanted if e.kind == "memory"):
                make(entry, a)
                good &= alone(entry, "measure", 0, a)
        elif step == "clean":
            clean(wanted, a)
        else:
            raise SystemExit(f"{step}: unknown step, expected prepare, measure, memory or clean")
    sys.exit(not good)


if __name__ == "__main__":
    main()
