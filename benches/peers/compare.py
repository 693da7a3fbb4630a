"""One shape at one precision: our engine and what a user would run instead, with the same
checkpoint, token ids and threads.

`prepare` creates what the peers need, compares every result with PyTorch's in f32, and finds the
fastest batch sizes of each peer for texts of several lengths; the machine may be busy. `measure`
runs the engines in turn, and needs a quiet machine.
"""

import gc
import json
import os
import time

import numpy as np

import peers
import record
from checkpoint import agreement, answers
from ours import ROOT, Ours
from turns import Turns

SPEED = ["query1x16", "uniform8x128", "mixed64", "short32x32"]
LONG = ["long1x8192"]
SIZES = (1, 2, 4, 8)  # batch sizes to try for texts of several lengths
CHECKED = 600  # tokens per workload, in whole texts, whose results are compared
# Minimum agreement of our results with PyTorch's in f32 before anything is timed: cosines of
# vectors, and 1 minus the difference of scores as a share of the largest.
VECTORS = {"f32": 0.999_99, "bf16": 0.999, "int8": 0.99}
SCORES = {"f32": 0.999_9, "bf16": 0.98, "int8": 0.9}


def texts_of(checkpoint, workloads):
    with open(os.path.join(ROOT, "benches/workloads.json"), encoding="utf8") as f:
        lengths = json.load(f)
    return {name: checkpoint.ids(lengths[name]) for name in workloads}


def timed(engine, texts, size):
    start = time.perf_counter()
    answers(engine, texts, size)
    return time.perf_counter() - start


def few(texts):
    """The first texts, with as many tokens as are compared."""
    ends = np.cumsum([len(text) for text in texts])
    return texts[: max(1, int((ends <= CHECKED).sum()))]


class Found:
    """What was found before the measurement, by engine, in the folder `bench/` of the checkpoint.
    """

    def __init__(self, checkpoint):
        self.path, self.values = checkpoint.own("found.json"), {}
        if os.path.exists(self.path):
            with open(self.path, encoding="utf8") as f:
                self.values = json.load(f)

    def of(self, engine, workload):
        return self.values.get(engine, {}).get(workload)

    def put(self, engine, workload, value):
        self.values.setdefault(engine, {})[workload] = value
        with open(self.path + ".part", "w", encoding="utf8") as f:
            json.dump(self.values, f, indent=1)
        os.replace(self.path + ".part", self.path)


def expected(checkpoint, name, texts, threads):
    """PyTorch's results in f32 for the first texts, computed once."""
    path = checkpoint.own(f"expected-{name}.npy")
    if not os.path.exists(path):
        engine = peers.engine("torch-f32", checkpoint, threads)
        np.save(path, answers(engine, few(texts), 4))
    return np.load(path)


def prepare(checkpoint, precision, workloads, engines, threads):
    texts, found = texts_of(checkpoint, workloads), Found(checkpoint)
    wanted = {name: expected(checkpoint, name, rows, threads) for name, rows in texts.items()}
    for name in engines:
        missing = [w for w in workloads if found.of(name, w) is None or broken(found, name, [w])]
        try:
            engine = peers.engine(name, checkpoint, threads) if missing else None
            for w in missing:
                found.put(name, w, tried(engine, texts[w], wanted[w]))
                print(f"{checkpoint.name} {name} {w}: {found.of(name, w)}", flush=True)
        except Exception as error:  # an error of the peer: it is left out, and the record says why
            for w in missing:
                found.put(name, w, {"error": f"{type(error).__name__}: {error}"[:300]})
            print(f"{checkpoint.name} {name} is left out: {error!r}", flush=True)
        engine = None
        gc.collect()
    with Ours(checkpoint, precision, threads, texts) as ours:
        for w in workloads:
            close = agreement(ours.answers(w)[: len(wanted[w])], wanted[w])
            found.put(f"gte-{precision}", w, {"agreement": close})
            print(f"{checkpoint.name} gte-{precision} {w}: agreement {close}", flush=True)
            check(checkpoint, w, precision, close)


def check(checkpoint, workload, precision, close):
    least = (SCORES if checkpoint.scores else VECTORS)[precision]
    if not close > least:
        raise SystemExit(f"{workload}: our results are wrong, agreement {close} with PyTorch")


def tried(engine, texts, wanted):
    """The two fastest batch sizes, and the agreement of the results."""
    first = few(texts)
    sizes = [len(texts)]
    if len(set(map(len, texts))) > 1:
        sizes = sorted(SIZES, key=lambda size: timed(engine, first, size))[:2]
    return {"sizes": sizes, "agreement": agreement(answers(engine, first, sizes[0]), wanted)}


def measure(checkpoint, precision, workloads, engines, threads, seconds, name, out):
    """Takes about `seconds` in total, and writes the record `name`."""
    end = time.perf_counter() + seconds
    texts, found = texts_of(checkpoint, workloads), Found(checkpoint)
    failed = {n: found.of(n, workloads[0])["error"] for n in engines if broken(found, n, workloads)}
    with Ours(checkpoint, precision, threads, texts) as ours:
        peak, rows = ours.peak(), []
        lines = [ours.ready, f"peak of {threads} threads: {peak / 1e9:.1f} G multiply-adds/s", ""]
        lines += [f"{name} is left out: {error}" for name, error in failed.items()]
        loaded = {n: peers.engine(n, checkpoint, threads) for n in engines if n not in failed}
        for i, w in enumerate(workloads):
            if w in ("uniform8x128", "long1x8192"):
                wanted = expected(checkpoint, w, texts[w], threads)
                close = agreement(ours.answers(w)[: len(wanted)], wanted)
                check(checkpoint, w, precision, close)
            tokens = {name: sum(map(len, rows)) for name, rows in texts.items()}
            share = tokens[w] / sum(tokens[later] for later in workloads[i:])
            left = share * (end - time.perf_counter())
            sizes, turns = in_turn(ours, loaded, found, texts[w], w, left)
            rows += rows_of(turns, sizes, found, precision, w, tokens[w])
            lines.append(line_of(turns, ours, peak, precision, w, tokens[w]))
            print(lines[-1], flush=True)
        lines.append(f"resident memory of ours: {ours.memory()[0]:.0f} MB")
    title = f"{checkpoint.name}, {precision}, {threads} threads"
    record.write(out, name, title, lines, rows)


def broken(found, engine, workloads):
    return any("error" in found.of(engine, w) for w in workloads)


def in_turn(ours, loaded, found, texts, workload, seconds):
    end, tokens = time.perf_counter() + seconds, sum(map(len, texts))
    sizes, known = {}, {}
    for name, engine in loaded.items():
        # Of the two sizes that were fastest on a busy machine, the one that is faster on this
        # machine.
        few = found.of(name, workload)["sizes"]
        tried = {size: timed(engine, texts, size) for size in few} if len(few) > 1 else {}
        sizes[name] = min(tried, key=tried.get) if tried else few[0]
        known |= {name: tried[sizes[name]]} if tried else {}
    run = lambda name: lambda: timed(loaded[name], texts, sizes[name])
    return sizes | {"gte": ""}, Turns(
        lambda: ours.seconds(workload),
        {name: run(name) for name in loaded},
        end - time.perf_counter(),
        # A short workload runs several times per round, so that it is measured as close to its
        # neighbours in time as a long one.
        repeats=max(1, 80 // tokens),
        known=known,
        warm=workload in LONG,
    )


def rows_of(turns, sizes, found, precision, workload, tokens):
    for name in turns.engines:
        engine = f"gte-{precision}" if name == "gte" else name
        known = found.of(engine, workload)
        yield {
            "workload": workload,
            "engine": engine,
            "tokens": tokens,
            "tokens_per_second": round(tokens / turns.median(name), 1),
            "batch": sizes[name],
            "cosine": round(known["agreement"], 6),
            **turns.row(name),
        }


def line_of(turns, ours, peak, precision, workload, tokens):
    speed = lambda name: tokens / turns.median(name)
    once = lambda name: " (once)" if name in turns.slow else ""
    others = "   ".join(f"{n} {speed(n):.1f}{once(n)}" for n in turns.engines if n != "gte")
    milliseconds = f"p50 {1000 * turns.median('gte'):.0f} ms, p99 {1000 * turns.p99('gte'):.0f} ms"
    count, shares = ours.multiplications(workload)
    whole = count / turns.median("gte") / peak
    return (
        f"{workload:14} gte-{precision} {speed('gte'):7.1f} tokens/s ({milliseconds})   {others}   "
        f"{turns.verdict()}; linear layers over the whole pass at {100 * whole:.0f} % of the peak, "
        f"{100 * whole / shares['products']:.0f} % in their own {100 * shares['products']:.0f} %"
    )
